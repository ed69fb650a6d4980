"""Half the learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import Anatomy
from attnscope.bench.controls import Control
from attnscope.case import Case
from attnscope.faults import FaultError


@dataclass(frozen=True)
class LearningRateHalved(Control):
    """Trains with half the learning rate.

    **Changes**: every learning rate, times a half.

    **Why it is healthy**: within a factor of two, a rate is a matter of taste.
    """

    preserves: ClassVar[bool] = False
    after_training: ClassVar[bool] = False

    def change(self, case: Case, anatomy: Anatomy) -> None:
        """Halves."""
        if case.optimizer is None:
            raise FaultError("the case has no optimiser")
        for group in case.optimizer.param_groups:
            group["lr"] *= 0.5
