"""The whole model takes steps a thousand times too large."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault

GROWTH = 1000.0


@dataclass(frozen=True)
class LearningRateTooHigh(Fault):
    """Multiplies every learning rate of the optimiser.

    **Injects**: learning rate times 1000 to the power of strength.

    **Strength**: 1 multiplies by 1000, 0.5 by 32.

    **Visible as**: curvature beyond the stability limit of the optimiser, and a loss that grows.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("beyond_stability_limit",)
    visibility: ClassVar[str] = "C"

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs an optimiser."""
        return "" if case.optimizer is not None else "the case has no optimiser"

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Multiplies the rates."""
        if case.optimizer is not None:
            for group in case.optimizer.param_groups:
                group["lr"] *= GROWTH**self.strength

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """Any block may be the first to pass the limit; the optimiser is meant."""
        return (*(block.name for block in anatomy.blocks), "model", "optimizer")
