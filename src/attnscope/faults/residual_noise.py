"""Noise is added to the residual of one layer, in eval mode too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._residual import residual_obstacle, retell_residual


@dataclass(frozen=True)
class ResidualNoise(Fault):
    """Adds normal noise to the residual where one attention's output is added to it.

    **Injects**: noise of strength times the residual's root mean square, anew in each forward pass.

    **Strength**: the noise in units of the signal.

    **Visible as**: outputs that differ from one evaluation to the next.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("not_deterministic",)
    visibility: ClassVar[str] = "I"
    ids: ClassVar[tuple[str, ...]] = ("RIN",)
    severities: ClassVar[tuple[float, ...]] = (0.01, 0.1, 1.0)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a residual whose line is known."""
        return residual_obstacle(attention_of(anatomy, self.layer))

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Changes the addition."""
        strength = self.strength

        def tell(attended: Tensor, residual: Tensor, training: bool) -> Tensor:
            size = strength * residual.detach().square().mean().sqrt()
            return attended + residual + size * torch.randn_like(residual)

        retell_residual(case.model, anatomy, (attention_of(anatomy, self.layer).layer,), tell)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The residual."""
        return (f"{attention_of(anatomy, self.layer).name}.residual",)
