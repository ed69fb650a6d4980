"""What an optimiser sees: the Hessian in the units of its own steps, against its stability limit.

Cohen, Kaur, Li, Kolter and Talwalkar, Gradient descent on neural networks typically occurs at the edge of
stability (2021), and Cohen et al., Adaptive gradient methods at the edge of stability (2022): on a quadratic,
gradient descent with learning rate lr diverges along an eigenvector of the (preconditioned) Hessian whose
eigenvalue exceeds 2/lr; with heavy-ball momentum beta, (2 + 2 beta)/lr; with a momentum that is a running
mean, as in Adam, (2 + 2 beta)/((1 - beta) lr), which is 38/lr for beta = 0.9.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attnscope.anatomy.blocks import Block
from attnscope.curvature.combined import Rescaled, Shifted
from attnscope.curvature.operator import BlockOperator
from attnscope.curvature.slices import gather, parameters_of
from attnscope.errors import CaseError

KNOWN = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)


@dataclass(frozen=True)
class Steps:
    """How an optimiser steps in the parameters of some blocks.

    Attributes:
        rates: block name -> the step per unit of smoothed gradient, for each parameter: the learning rate,
            divided by Adam's denominator.
        limits: block name -> the largest stable eigenvalue of `rates * Hessian`, from the momentum alone: 2
            without momentum, 38 for Adam with beta_1 = 0.9.
        decay: block name -> the coupled L2 penalty, which adds to every eigenvalue of the Hessian.
        warm: whether every parameter has optimiser state; before the first step there is none.
    """

    rates: Mapping[str, Tensor]
    limits: Mapping[str, float]
    decay: Mapping[str, float]
    warm: bool


def steps_of(optimizer: torch.optim.Optimizer, model: nn.Module, blocks: Mapping[str, Block]) -> Steps:
    """Reads the steps from the optimiser's own state.

    Args:
        optimizer: SGD (with momentum or Nesterov's), Adam or AdamW.
        model: whose parameters the optimiser trains.
        blocks: block name -> block.

    Returns:
        rates and limits per block. A parameter that the optimiser does not train has rate 0.

    Raises:
        CaseError: another optimiser, or one block trained with several momenta.
    """
    if not isinstance(optimizer, KNOWN):
        raise CaseError(
            f"the steps of {type(optimizer).__name__} are not known; known are SGD, Adam and AdamW. Pass the "
            "preconditioner to Rescaled yourself"
        )
    if any(group.get("maximize") for group in optimizer.param_groups):
        raise CaseError("the optimiser maximises; negate the loss to see its stability")
    groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    named = dict(model.named_parameters())
    per_parameter: dict[str, Tensor | None] = {}
    warm = True
    for name in parameters_of(blocks.values()):
        group = groups.get(id(named[name]))
        if group is None:
            per_parameter[name] = None
            continue
        state = optimizer.state.get(named[name], {})
        rate = _rate(optimizer, group, state, named[name])
        warm = warm and (rate is not None or not named[name].requires_grad)
        per_parameter[name] = rate if rate is not None else torch.full_like(named[name].detach(), math.nan)
    rates, limits, decay = {}, {}, {}
    for name, block in blocks.items():
        rates[name] = gather(block, per_parameter, {key: value.detach() for key, value in named.items()})
        used = [group for part in block.slices if (group := groups.get(id(named[part.parameter])))]
        limits[name] = _single(name, [_limit(optimizer, group) for group in used], math.inf)
        decay[name] = _single(name, [_decay(optimizer, group) for group in used], 0.0)
    return Steps(rates, limits, decay, warm)


def seen_by(
    optimizer: torch.optim.Optimizer, model: nn.Module, blocks: Mapping[str, Block], operator: BlockOperator
) -> Rescaled:
    """The operator in the units of the optimiser's steps, divided by the stability limit.

    Its top eigenvalue is 1 at the edge of stability and above 1 beyond it, whatever the optimiser, its
    learning rates and its preconditioner. A coupled L2 penalty is part of it; AdamW's decoupled decay is
    not, and moves the limit by a fraction of at most learning rate times decay.

    Args:
        optimizer: SGD, Adam or AdamW, after at least one step.
        model: whose parameters the optimiser trains.
        blocks: block name -> block.
        operator: the Hessian on those blocks, at the moment of the optimiser's state.

    Raises:
        CaseError: the optimiser is unknown, or has not made a step yet.
    """
    steps = steps_of(optimizer, model, blocks)
    if not steps.warm:
        raise CaseError(
            f"{type(optimizer).__name__} has no state for some parameters: it has not made a step yet, so its "
            "preconditioner is not known"
        )
    penalised = Shifted(operator, steps.decay) if any(steps.decay.values()) else operator
    return Rescaled(
        penalised, {name: (rate / steps.limits[name]).clamp(min=0).sqrt() for name, rate in steps.rates.items()}
    )


def _rate(
    optimizer: torch.optim.Optimizer, group: Mapping[str, Any], state: Mapping[str, Any], parameter: Tensor
) -> Tensor | None:
    """The learning rate over Adam's denominator; None when there is no state yet."""
    rate = float(group["lr"])
    if isinstance(optimizer, torch.optim.SGD):
        return torch.full_like(parameter.detach(), rate)
    if "exp_avg_sq" not in state:
        return None
    second = state["max_exp_avg_sq"] if group.get("amsgrad") else state["exp_avg_sq"]
    step = float(state["step"])
    corrected = second.detach() / (1 - group["betas"][1] ** step)
    found: Tensor = rate / (corrected.sqrt() + group["eps"])
    return found


def _limit(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> float:
    if isinstance(optimizer, torch.optim.SGD):
        momentum, dampening = float(group["momentum"]), float(group["dampening"])
        limit = (2 + 2 * momentum) / ((1 + 2 * momentum) if group["nesterov"] else 1.0)
        return limit / (1 - dampening) if momentum else limit
    beta = float(group["betas"][0])
    return (2 + 2 * beta) / (1 - beta)


def _decay(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> float:
    decoupled = isinstance(optimizer, torch.optim.AdamW) or group.get("decoupled_weight_decay", False)
    return 0.0 if decoupled else float(group.get("weight_decay", 0.0))


def _single(name: str, values: list[float], nothing: float) -> float:
    if len(set(values)) > 1:
        raise CaseError(
            f"block {name!r} is trained with several momenta or decays ({values}); cut it into blocks that "
            "each belong to one parameter group"
        )
    return values[0] if values else nothing
