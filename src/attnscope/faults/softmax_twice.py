"""The pattern of one layer goes through a second softmax."""

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
class SoftmaxTwice(Fault):
    """Normalises the pattern once more, as when the function that makes it already did.

    **Injects**: (1 - strength) pattern + strength softmax(pattern).

    **Strength**: the share of the second softmax.

    **Visible as**: no weight above e times another; patterns that cannot be sharp.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("softmax_twice",)
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
            again = scores.normalise(scores.masked(pattern))
            return mixed(pattern, again, self.strength)

        retell(case.model, anatomy, (attention.layer,), tell)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The softmax."""
        name = attention_of(anatomy, self.layer).name
        return (f"{name}.softmax",)
