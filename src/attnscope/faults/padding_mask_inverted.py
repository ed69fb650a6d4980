"""One layer attends to padding only: its padding mask is upside down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._scores import Scores, obstacle_of, retell


@dataclass(frozen=True)
class PaddingMaskInverted(Fault):
    """Forbids the real keys of one layer and allows the padded ones.

    **Injects**: the padding mask negated; examples without padding keep theirs, as otherwise nothing is left.

    **Strength**: 1 forbids the real keys; less takes 10 strength off their scores.

    **Visible as**: mass on padding, none or little on real tokens.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("padding_mask_inverted", "padding_attended")
    visibility: ClassVar[str] = "I"
    ids: ClassVar[tuple[str, ...]] = ("MIM",)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a mask."""
        attention = attention_of(anatomy, self.layer)
        return obstacle_of(case, anatomy, attention.layer, forbidden="padding")

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Retells the pattern of the layer."""
        attention = attention_of(anatomy, self.layer)

        def tell(scores: Scores) -> Tensor:
            padded = scores.padding_mask()
            if padded is None or scores.forbidden is None:
                return scores.normalise(scores.masked())
            has_padding = padded.any(-1, keepdim=True)
            real = ~padded & has_padding & ~scores.forbidden
            rest = scores.forbidden & ~padded
            if self.strength >= 1:
                rest = rest | real
            return scores.normalise(scores.masked(scores.bare - 10.0 * self.strength * real, rest))

        retell(case.model, anatomy, (attention.layer,), tell)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The mask."""
        name = attention_of(anatomy, self.layer).name
        return (f"{name}.mask",)
