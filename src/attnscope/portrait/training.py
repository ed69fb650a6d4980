"""Curvature over training: a copy of the model is trained, and its sharpest direction followed."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from attnscope.case import Case, checked_loss
from attnscope.curvature.cohen2022adaptive import KNOWN, seen_by
from attnscope.curvature.combined import Joined
from attnscope.curvature.hessian import Hessian
from attnscope.curvature.lanczos import lanczos
from attnscope.errors import AttnscopeError, CaseError
from attnscope.portrait.allowance import Allowance
from attnscope.probe import Probe
from attnscope.readings import Reading
from attnscope.undisturbed import undisturbed

MOMENTS, LANCZOS_STEPS = 12, 12


@dataclass(frozen=True)
class Training:
    """How long a copy is trained, and with which randomness."""

    steps: int
    seed: int = 0


def over_training(
    case: Case, probe: Probe, asked: Training, allowance: Allowance, say: Callable[[str], None]
) -> dict[str, Reading]:
    """Trains a copy of model and optimiser on the case's batches, in train mode, and measures on the way.

    The curvature is that of the first batch, in eval mode. What the optimiser sees is missing before its first
    step, when it has no preconditioner.

    Args:
        case: with an optimiser.
        probe: the case at its first moment.
        asked: how long.
        allowance: when to stop.
        say: told what is being done.

    Returns:
        readings by training step: loss, sharpness (top eigenvalue) and stability (over the limit, 1).

    Raises:
        CaseError: the case has no optimiser, or one that trains no parameter of the model.
    """
    if not isinstance(case.optimizer, KNOWN):
        raise CaseError(
            "following curvature over training needs Case(optimizer=...) with SGD, Adam or AdamW, found "
            f"{type(case.optimizer).__name__}"
        )
    # Copied together, so that the copy of the optimiser trains the copy of the model.
    model, optimizer = copy.deepcopy((probe.model, case.optimizer))
    mine = {id(parameter) for parameter in model.parameters()}
    if not any(id(item) in mine for group in optimizer.param_groups for item in group["params"]):
        raise CaseError("Case.optimizer trains none of the model's parameters")
    batches = list(case.batches)
    moments = sorted({round(step) for step in np.linspace(0, asked.steps, min(MOMENTS, asked.steps + 1))})
    rows: list[tuple[int, float, float, float]] = []
    with undisturbed(nn.Module(), seed=asked.seed):
        for step in range(asked.steps + 1):
            if step in moments:
                say(f"curvature at step {step} of {asked.steps}")
                rows.append((step, *_moment(probe, model, optimizer)))
            if step == asked.steps or allowance.asked:
                break
            model.train()
            optimizer.zero_grad(set_to_none=True)
            batch = batches[step % len(batches)]
            loss = checked_loss(probe.loss(probe.run(model, batch), batch))
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if not math.isfinite(float(loss.detach())):
                break
    steps = tuple(row[0] for row in rows)
    units = {"loss_over_training": "nats", "sharpness_over_training": "loss/parameter²",
             "stability_over_training": "limit"}
    return {
        name: Reading(name, np.array([row[column] for row in rows]), ("step",), unit, {"step": steps})
        for column, (name, unit) in enumerate(units.items(), start=1)
    }


def _moment(probe: Probe, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[float, float, float]:
    """Loss, sharpness and stability now; NaN where one is not defined."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            hessian = Hessian(model, [probe.batch], probe.loss_of, check=False, seed=probe.seed)
        except AttnscopeError:  # the loss has become infinite
            return math.nan, math.nan, math.nan
        sharpness = lanczos(Joined(hessian), max_steps=LANCZOS_STEPS, tolerance=0.02)["all"].top
        try:
            seen = Joined(seen_by(optimizer, model, hessian.blocks, hessian))
            stability = lanczos(seen, max_steps=LANCZOS_STEPS, tolerance=0.02)["all"].top
        except CaseError:
            stability = math.nan
        return hessian.objective.value, sharpness, stability
