"""The normalisation beside one attention has a gain of zero, so nothing passes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._keeping import hold
from attnscope.faults._parameters import block_views, zero_share


@dataclass(frozen=True)
class ZeroedNormGain(Fault):
    """Zeroes the gain of the first normalisation beside one attention, and keeps it zero while training.

    **Injects**: gain = 0, after each optimiser step too; the bias stays.

    **Strength**: the share of the channels, from the first.

    **Visible as**: everything behind it is the same for every input.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("norm_gain",)
    ids: ClassVar[tuple[str, ...]] = ("NZG",)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a normalisation with a gain."""
        norms = attention_of(anatomy, self.layer).norms
        return "" if norms else "no normalisation stands beside this attention"

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Zeroes the gain: the first parameter of the block."""
        block = attention_of(anatomy, self.layer).norms[0]
        hold(case, lambda model, _: zero_share(block_views(model, anatomy, block)[:1], self.strength))

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The normalisation."""
        attention = attention_of(anatomy, self.layer)
        return (attention.norms[0], f"{attention.name}.norm")
