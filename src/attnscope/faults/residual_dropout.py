"""Dropout falls on the residual of one layer, where the signal has no other way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._residual import residual_obstacle, retell_residual


@dataclass(frozen=True)
class ResidualDropout(Fault):
    """Drops entries of the residual in train mode where one attention's output is added to it.

    **Injects**: attended + dropout(residual) at that addition.

    **Strength**: the rate.

    **Visible as**: losses that differ between train and eval mode; slow learning.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ()
    visibility: ClassVar[str] = "C"
    ids: ClassVar[tuple[str, ...]] = ("RDR",)
    severities: ClassVar[tuple[float, ...]] = (0.1, 0.3, 0.5)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a residual whose line is known."""
        return residual_obstacle(attention_of(anatomy, self.layer))

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Changes the addition."""
        rate = self.strength

        def tell(attended: Tensor, residual: Tensor, training: bool) -> Tensor:
            return attended + nn.functional.dropout(residual, rate, training=training)

        retell_residual(case.model, anatomy, (attention_of(anatomy, self.layer).layer,), tell)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The residual."""
        return (f"{attention_of(anatomy, self.layer).name}.residual",)
