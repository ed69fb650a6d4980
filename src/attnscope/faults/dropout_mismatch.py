"""One layer drops more of its pattern in train mode than the model was told to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._scores import Scores, obstacle_of, retell


@dataclass(frozen=True)
class DropoutMismatch(Fault):
    """Drops entries of one layer's pattern on top of the dropout that it has.

    **Injects**: dropout at rate 0.3 strength behind the softmax, in train mode.

    **Strength**: 1 drops three weights in ten.

    **Visible as**: losses that differ between train and eval mode.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("dropout_mismatch",)
    visibility: ClassVar[str] = "B"
    ids: ClassVar[tuple[str, ...]] = ("KMD",)
    severities: ClassVar[tuple[float, ...]] = (1 / 3, 1.0, 5 / 3)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs the softmax's line."""
        return obstacle_of(case, anatomy, attention_of(anatomy, self.layer).layer)

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Retells the pattern of the layer."""
        attention = attention_of(anatomy, self.layer)
        rate = 0.3 * self.strength

        def tell(scores: Scores) -> Tensor:
            pattern = scores.normalise(scores.masked())
            return nn.functional.dropout(pattern, rate, training=scores.training)

        retell(case.model, anatomy, (attention.layer,), tell)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The dropout."""
        return (f"{attention_of(anatomy, self.layer).name}.dropout",)
