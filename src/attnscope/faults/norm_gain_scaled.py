"""The normalisation beside one attention has a gain some times too large or too small."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._keeping import hold
from attnscope.faults._parameters import views


@dataclass(frozen=True)
class NormGainScaled(Fault):
    """Multiplies the gain of the first normalisation beside one attention, and holds its size there.

    **Injects**: gain times 1 + strength; after each optimiser step its norm is put back to that size, so that
    training may turn it but not heal it.

    **Strength**: 1 doubles, -0.5 halves.

    **Visible as**: curvature of what reads it, scaled by the square; sharper or flatter patterns.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("norm_gain",)
    visibility: ClassVar[str] = "C"
    ids: ClassVar[tuple[str, ...]] = ("NSG",)
    severities: ClassVar[tuple[float, ...]] = (-0.5, 1.0, 4.0)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a normalisation with a gain."""
        norms = attention_of(anatomy, self.layer).norms
        return "" if norms else "no normalisation stands beside this attention"

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Multiplies the gain: the first parameter of the block."""
        piece = anatomy.block(attention_of(anatomy, self.layer).norms[0]).slices[0]
        size = (1 + self.strength) * float(views(case.model, (piece,))[0].norm())

        def rescale(model: nn.Module, n_steps: int) -> None:
            gain = views(model, (piece,))[0]
            gain.mul_(size / gain.norm().clamp(min=torch.finfo(gain.dtype).tiny))

        hold(case, rescale)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The normalisation."""
        attention = attention_of(anatomy, self.layer)
        return (attention.norms[0], f"{attention.name}.norm")
