"""The mask of one layer is applied after the softmax, so the rows no longer sum to one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._scores import Scores, obstacle_of, retell


@dataclass(frozen=True)
class MaskAfterSoftmax(Fault):
    """Lets the softmax see every score and zeroes the forbidden places afterwards.

    **Injects**: pattern times (1 - strength forbidden), after an unmasked softmax.

    **Strength**: how much of a forbidden weight is taken away; below 1 some of it leaks.

    **Visible as**: rows that sum to less than one where something is forbidden.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("mask_after_softmax",)
    visibility: ClassVar[str] = "I"

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a mask."""
        attention = attention_of(anatomy, self.layer)
        return obstacle_of(case, anatomy, attention.layer, forbidden="anything")

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Retells the pattern of the layer."""
        attention = attention_of(anatomy, self.layer)

        def tell(scores: Scores) -> Tensor:
            pattern = scores.normalise(scores.bare)
            if scores.forbidden is None:
                return pattern
            return pattern * (1 - self.strength * scores.forbidden)

        retell(case.model, anatomy, (attention.layer,), tell)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The mask and the softmax."""
        name = attention_of(anatomy, self.layer).name
        return (f"{name}.mask", f"{name}.softmax",)
