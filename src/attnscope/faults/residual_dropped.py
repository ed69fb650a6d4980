"""One layer's attention replaces the residual stream instead of adding to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._residual import drop_residual


@dataclass(frozen=True)
class ResidualDropped(Fault):
    """Leaves the residual out where one attention's output is added to it.

    **Injects**: attended + (1 - strength) residual at that addition.

    **Strength**: how much of the residual is lost.

    **Visible as**: no path around the attention; gradients and rank that fall with depth.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("residual_dropped",)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a residual whose line is known."""
        step = attention_of(anatomy, self.layer).residual_step
        return "" if step is not None and step.source is not None else "no residual was found beside this attention"

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Changes the addition."""
        drop_residual(case.model, anatomy, (attention_of(anatomy, self.layer).layer,), self.strength)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The residual."""
        return (f"{attention_of(anatomy, self.layer).name}.residual",)
