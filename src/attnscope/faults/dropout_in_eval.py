"""Dropout on the pattern of one layer stays active in eval mode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._scores import Scores, obstacle_of, retell


@dataclass(frozen=True)
class DropoutInEval(Fault):
    """Drops weights of the pattern at random, whatever the mode.

    **Injects**: dropout at rate 0.3 strength after the softmax, in train and in eval mode.

    **Strength**: 1 drops three weights in ten.

    **Visible as**: two evaluations that differ.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("dropout_in_eval", "not_deterministic")
    visibility: ClassVar[str] = "I"
    ids: ClassVar[tuple[str, ...]] = ("D10",)
    severities: ClassVar[tuple[float, ...]] = (0.3, 1.0, 2.0)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs the softmax's line."""
        attention = attention_of(anatomy, self.layer)
        return obstacle_of(case, anatomy, attention.layer)

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Retells the pattern of the layer."""
        attention = attention_of(anatomy, self.layer)

        def tell(scores: Scores) -> Tensor:
            pattern = scores.normalise(scores.masked())
            return nn.functional.dropout(pattern, 0.3 * self.strength, training=True)

        retell(case.model, anatomy, (attention.layer,), tell)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The dropout."""
        name = attention_of(anatomy, self.layer).name
        return (f"{name}.dropout",)
