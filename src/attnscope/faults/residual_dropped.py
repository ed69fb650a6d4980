"""One layer's attention replaces the residual stream instead of adding to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._residual import residual_obstacle, retell_residual


@dataclass(frozen=True)
class ResidualDropped(Fault):
    """Leaves the residual out where one attention's output is added to it.

    **Injects**: attended + (1 - strength) residual at that addition.

    **Strength**: how much of the residual is lost.

    **Visible as**: no path around the attention; gradients and rank that fall with depth.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("residual_dropped",)
    ids: ClassVar[tuple[str, ...]] = ("RRS", "V12")

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a residual whose line is known."""
        return residual_obstacle(attention_of(anatomy, self.layer))

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Changes the addition."""
        left = 1 - self.strength

        def tell(attended: Tensor, residual: Tensor, training: bool) -> Tensor:
            return attended + left * residual

        retell_residual(case.model, anatomy, (attention_of(anatomy, self.layer).layer,), tell)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The residual."""
        return (f"{attention_of(anatomy, self.layer).name}.residual",)
