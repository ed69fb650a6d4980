"""What the loss does under the next steps of the user's optimiser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from attnscope.lenses import DEEP, Lens
from attnscope.lenses._optimizer import needs_closure, optimizer_on_trial
from attnscope.probe import Probe
from attnscope.readings import Reading
from attnscope.undisturbed import seed_everything


@dataclass(frozen=True)
class TrialSteps(Lens):
    """What the loss of one batch does under the next steps of the user's optimiser on that batch.

    **Measures**: the loss of the first batch, in train mode, before the first and after each of `steps` steps
    of the user's optimiser on that same batch; every loss with the same random numbers, so that dropout does
    not move it. Model and optimiser are put back bit for bit.

    **Reading it**: it falls, perhaps not at every step. A loss that is mostly above where it began, or that
    stops being a number, says that the steps are too large for the curvature. `rose` is the share of the
    steps after which the loss is above where it began.

    **Shapes**: (step,), with the loss before the first step as number 0.

    **Cost**: `steps` gradients and steps.

    **Reference**: Cohen et al., 2021, arXiv:2103.00065 (descent beyond 2/lr diverges on the quadratic model).
    """

    unit: ClassVar[str] = "nat"
    dims: ClassVar[tuple[str, ...]] = ("step",)
    needs: ClassVar[tuple[str, ...]] = ("gradient", "loss", "optimizer")
    effort: ClassVar[str] = DEEP

    steps: int = 10

    def measure(self, probe: Probe) -> Reading:
        """Takes the steps and takes them back."""
        optimizer = probe.optimizer
        if optimizer is None:
            return self.not_applicable("no optimiser is given; pass Case(..., optimizer=...)")
        if needs_closure(optimizer):
            return self.not_applicable(f"{type(optimizer).__name__} evaluates the loss by itself in each step")
        losses: list[float] = []
        with probe.evaluating(train=True) as model, optimizer_on_trial(optimizer):
            for step in range(self.steps + 1):
                seed_everything(probe.seed)
                optimizer.zero_grad(set_to_none=True)
                model.zero_grad(set_to_none=True)
                loss = probe.loss_of(model, probe.batch)
                if not loss.requires_grad:
                    return self.not_applicable("no parameter is trainable")
                losses.append(float(loss.detach()))
                if step == self.steps or not torch.isfinite(loss):
                    break
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        return self._reading(losses, probe)

    def _reading(self, losses: list[float], probe: Probe) -> Reading:
        # What comes after the last number is no number either; it counts as above.
        values = np.full(self.steps + 1, np.nan)
        values[: len(losses)] = losses
        values[~np.isfinite(values)] = np.nan
        above = ~(values[1:] <= values[0])
        return self.reading(
            values, coords={"step": tuple(range(self.steps + 1))}, step=probe.step,
            facts={
                "rose": float(above.mean()), "first": losses[0], "last": losses[-1],
                "finite": bool(np.isfinite(losses).all()), "optimizer": type(probe.optimizer).__name__,
            },
        )
