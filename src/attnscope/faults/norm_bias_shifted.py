"""The normalisation beside one attention adds a constant to every channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._keeping import hold
from attnscope.faults._parameters import views


@dataclass(frozen=True)
class NormBiasShifted(Fault):
    """Shifts the bias of the first normalisation beside one attention, and holds its mean there.

    **Injects**: bias plus strength; after each optimiser step its mean is put back there.

    **Strength**: the shift, in units of what a normalisation puts out.

    **Visible as**: tokens that look alike to what reads it, and curvature along the constant.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ()
    visibility: ClassVar[str] = "C"
    ids: ClassVar[tuple[str, ...]] = ("NSB",)
    severities: ClassVar[tuple[float, ...]] = (0.5, 1.0, 2.0)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a normalisation with a bias."""
        norms = attention_of(anatomy, self.layer).norms
        if not norms:
            return "no normalisation stands beside this attention"
        return "" if len(anatomy.block(norms[0]).slices) > 1 else "the normalisation beside this attention has no bias"

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Shifts the bias: the second parameter of the block."""
        piece = anatomy.block(attention_of(anatomy, self.layer).norms[0]).slices[1]
        mean = float(views(case.model, (piece,))[0].mean()) + self.strength

        def shift(model: nn.Module, n_steps: int) -> None:
            bias = views(model, (piece,))[0]
            bias.add_(mean - bias.mean())

        hold(case, shift)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The normalisation."""
        attention = attention_of(anatomy, self.layer)
        return (attention.norms[0], f"{attention.name}.norm")
