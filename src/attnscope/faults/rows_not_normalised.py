"""The pattern of one layer is a sigmoid: its rows do not sum to one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._projections import mixed
from attnscope.faults._scores import Scores, obstacle_of, retell


@dataclass(frozen=True)
class RowsNotNormalised(Fault):
    """Squashes each score by itself where all of a row should share one unit of weight.

    **Injects**: (1 - strength) softmax + strength sigmoid.

    **Strength**: the share of the sigmoid.

    **Visible as**: row sums other than one.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("rows_not_normalised",)
    visibility: ClassVar[str] = "I"
    ids: ClassVar[tuple[str, ...]] = ("H5",)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs the softmax's line."""
        attention = attention_of(anatomy, self.layer)
        return obstacle_of(case, anatomy, attention.layer)

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Retells the pattern of the layer."""
        attention = attention_of(anatomy, self.layer)

        def tell(scores: Scores) -> Tensor:
            pattern = scores.normalise(scores.masked())
            squashed = scores.masked().sigmoid()
            return mixed(pattern, squashed, self.strength)

        retell(case.model, anatomy, (attention.layer,), tell)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The softmax."""
        name = attention_of(anatomy, self.layer).name
        return (f"{name}.softmax",)
