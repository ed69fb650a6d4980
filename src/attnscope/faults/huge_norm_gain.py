"""The normalisation beside one attention has a gain a hundred times too large."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._parameters import block_views

GROWTH = 100.0


@dataclass(frozen=True)
class HugeNormGain(Fault):
    """Multiplies the gain of the first normalisation beside one attention, once.

    **Injects**: gain times 100 to the power of strength.

    **Strength**: 1 multiplies by 100, 0.5 by 10.

    **Visible as**: scores that grow with it, saturated patterns, one block that drowns the residual stream.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("norm_gain",)
    visibility: ClassVar[str] = "A"

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a normalisation with a gain."""
        norms = attention_of(anatomy, self.layer).norms
        return "" if norms else "no normalisation stands beside this attention"

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Multiplies the gain: the first parameter of the block."""
        gain = block_views(case.model, anatomy, attention_of(anatomy, self.layer).norms[0])[0]
        with torch.no_grad():
            gain.mul_(GROWTH**self.strength)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The normalisation."""
        attention = attention_of(anatomy, self.layer)
        return (attention.norms[0], f"{attention.name}.norm")
