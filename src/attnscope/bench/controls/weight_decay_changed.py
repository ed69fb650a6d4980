"""Another weight decay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import Anatomy
from attnscope.bench.controls import Control
from attnscope.case import Case
from attnscope.faults import FaultError


@dataclass(frozen=True)
class WeightDecayChanged(Control):
    """Trains with another weight decay.

    **Changes**: the decay of every group of the optimiser, times a factor.

    **Why it is healthy**: within a factor of two, a decay is a matter of taste.

    Attributes:
        factor: 2 or a half.
    """

    factor: float = 2.0
    preserves: ClassVar[bool] = False
    after_training: ClassVar[bool] = False

    def change(self, case: Case, anatomy: Anatomy) -> None:
        """Multiplies."""
        groups = [] if case.optimizer is None else case.optimizer.param_groups
        if not any(group.get("weight_decay") for group in groups):
            raise FaultError("the case has no optimiser with a weight decay")
        for group in groups:
            group["weight_decay"] *= self.factor
