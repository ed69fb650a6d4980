"""One layer adds its residual some times too large or too small."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._residual import residual_obstacle, retell_residual


@dataclass(frozen=True)
class ResidualScaled(Fault):
    """Multiplies the residual where one attention's output is added to it.

    **Injects**: attended + (1 + strength) residual at that addition.

    **Strength**: 1 doubles the residual, -0.5 halves it.

    **Visible as**: an attention that hardly counts, or one that drowns its input.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("residual_scaled",)
    visibility: ClassVar[str] = "C"
    ids: ClassVar[tuple[str, ...]] = ("RSR",)
    severities: ClassVar[tuple[float, ...]] = (-0.5, 1.0, 4.0)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a residual whose line is known."""
        return residual_obstacle(attention_of(anatomy, self.layer))

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Changes the addition."""
        factor = 1 + self.strength

        def tell(attended: Tensor, residual: Tensor, training: bool) -> Tensor:
            return attended + factor * residual

        retell_residual(case.model, anatomy, (attention_of(anatomy, self.layer).layer,), tell)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The residual."""
        return (f"{attention_of(anatomy, self.layer).name}.residual",)
