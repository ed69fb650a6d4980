"""The learning rate rises during the first steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from attnscope.anatomy.blocks import Anatomy
from attnscope.bench.controls import Control
from attnscope.case import Case
from attnscope.faults import FaultError


@dataclass(frozen=True)
class Warmup(Control):
    """Trains with a rate that rises in a straight line to the optimiser's own, as a scheduler sets it.

    **Changes**: before step i (from 0) the rate of every group is its own times (i + 1) / n, up to step n. The group
    itself says the rate of the moment, as it does under `LambdaLR`.

    **Why it is healthy**: most transformers are trained so; looked at early, the rate and the updates are small.

    Attributes:
        n: steps until the rate is whole.
    """

    n: int = 100
    preserves: ClassVar[bool] = False
    after_training: ClassVar[bool] = False

    def change(self, case: Case, anatomy: Anatomy) -> None:
        """Sets the first rate now and the next one after each step."""
        optimizer = case.optimizer
        if optimizer is None:
            raise FaultError("the case has no optimiser")
        whole = [group["lr"] for group in optimizer.param_groups]
        done = [0]

        def set_rates(stepped: torch.optim.Optimizer) -> None:
            for group, rate in zip(stepped.param_groups, whole, strict=False):
                group["lr"] = rate * min(1.0, (done[0] + 1) / self.n)

        def after_step(stepped: torch.optim.Optimizer, *_: Any) -> None:
            done[0] += 1
            set_rates(stepped)

        set_rates(optimizer)
        optimizer.register_step_post_hook(after_step)
