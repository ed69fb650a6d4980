"""Which numbers of a parameter the optimiser has really moved, as its own memory of past gradients tells."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer

from attnscope.lenses._optimizer import groups_by_parameter
from attnscope.probe import Probe

# What torch's optimisers call their memories; each is zero exactly where no gradient has ever arrived.
_MEMORIES = ("exp_avg_sq", "square_avg", "momentum_buffer", "exp_avg", "exp_inf", "acc_delta", "grad_avg", "prev")
ENOUGH_STEPS = 3  # a schedule may start at zero, so the first step may have left a gradient and moved nothing


def updated(probe: Probe) -> dict[str, Tensor]:
    """Parameter name -> where a gradient has reached it in training, for those of which the optimiser remembers it.

    A parameter that is frozen, has a learning rate of zero, or has been stepped fewer than `ENOUGH_STEPS` times is
    left out.
    """
    if probe.optimizer is None:
        return {}
    found = {}
    groups = groups_by_parameter(probe)
    for name, parameter in probe.model.named_parameters():
        if name not in groups or not parameter.requires_grad or not float(groups[name].get("lr", 1.0)):
            continue
        memory = _memory(probe.optimizer, parameter)
        if memory is not None:
            found[name] = memory.detach().cpu() != 0
    return found


def _memory(optimizer: Optimizer, parameter: Tensor) -> Tensor | None:
    state = optimizer.state.get(parameter)
    if not isinstance(state, dict) or float(state.get("step", ENOUGH_STEPS)) < ENOUGH_STEPS:
        return None
    for name in _MEMORIES:
        memory = state.get(name)
        if isinstance(memory, Tensor) and memory.shape == parameter.shape and memory.is_floating_point():
            return memory if bool(torch.isfinite(memory).all()) else None
    return None
