"""The user's optimiser beside the model's parameters; a step on trial leaves no trace in either."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from attnscope.probe import Probe


def groups_by_parameter(probe: Probe) -> dict[str, dict[str, Any]]:
    """Parameter name -> the optimiser's group that holds it."""
    if probe.optimizer is None:
        return {}
    held = {id(value): group for group in probe.optimizer.param_groups for value in group["params"]}
    return {name: held[id(value)] for name, value in probe.model.named_parameters() if id(value) in held}


@contextmanager
def optimizer_on_trial(optimizer: Optimizer) -> Iterator[None]:
    """Lets a step be taken; afterwards the optimiser's state, groups and hooks are as before, bit for bit."""
    attributes = dict(optimizer.__dict__)
    groups = [(group, dict(group), list(group["params"])) for group in optimizer.param_groups]
    states = {
        key: (held, {name: (value, _copied(value)) for name, value in held.items()})
        for key, held in optimizer.state.items()
    }
    numbers = [
        (value, value.clone())
        for group in optimizer.param_groups
        for value in group.values()
        if isinstance(value, Tensor)
    ]
    try:
        # Hooks and wrappers (of a learning-rate schedule, say) count and log steps that are none.
        for name in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"):
            if name in optimizer.__dict__:
                optimizer.__dict__[name] = type(attributes[name])()
        optimizer.__dict__.pop("step", None)
        yield
    finally:
        with torch.no_grad():
            for value, kept in numbers:
                value.copy_(kept)
        for group, before, parameters in groups:
            group.clear()
            group.update(before)
            group["params"][:] = parameters
        for key in [key for key in optimizer.state if key not in states]:
            del optimizer.state[key]
        for key, (held, before) in states.items():
            held.clear()
            held.update({name: _restored(value, kept) for name, (value, kept) in before.items()})
            optimizer.state[key] = held
        optimizer.__dict__.clear()
        optimizer.__dict__.update(attributes)


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    return list(value) if isinstance(value, list) else dict(value) if isinstance(value, dict) else value


def _restored(value: Any, kept: Any) -> Any:
    """The same object with its old content."""
    if isinstance(value, Tensor):
        with torch.no_grad():
            value.copy_(kept)
    elif isinstance(value, list):
        value[:] = kept
    elif isinstance(value, dict):
        value.clear()
        value.update(kept)
    return value


def needs_closure(optimizer: Optimizer) -> bool:
    """Whether `step` cannot be called without a function that evaluates the loss (L-BFGS)."""
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty
