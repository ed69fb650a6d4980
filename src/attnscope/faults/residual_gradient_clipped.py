"""The gradient is clipped on its way back through the residual stream of one layer."""

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
class ResidualGradientClipped(Fault):
    """Clips the gradient at the sum of one attention and its residual; the forward pass does not change.

    **Injects**: each entry cut off at its root mean square over strength, on the way back.

    **Strength**: 1 cuts at the root mean square itself, 0.1 at ten times it.

    **Visible as**: gradients before this layer that do not fit those behind it.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ()
    visibility: ClassVar[str] = "C"
    ids: ClassVar[tuple[str, ...]] = ("RGC",)
    severities: ClassVar[tuple[float, ...]] = (0.1, 1.0, 10.0)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a residual whose line is known."""
        return residual_obstacle(attention_of(anatomy, self.layer))

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Changes the addition."""
        strength = self.strength

        def clip(gradient: Tensor) -> Tensor:
            bound = gradient.detach().square().mean().sqrt() / strength
            return torch.minimum(torch.maximum(gradient, -bound), bound)

        def tell(attended: Tensor, residual: Tensor, training: bool) -> Tensor:
            total = attended + residual
            if total.requires_grad:
                total.register_hook(clip)  # type: ignore[no-untyped-call]
            return total

        retell_residual(case.model, anatomy, (attention_of(anatomy, self.layer).layer,), tell)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The residual."""
        return (f"{attention_of(anatomy, self.layer).name}.residual",)
