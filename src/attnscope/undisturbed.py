"""Keeps a model's whole state and puts it back exactly, also after an exception or Ctrl-C."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@dataclass
class _ModuleState:
    attributes: dict[str, Any]
    containers: dict[str, Any]


def _copied(value: Any) -> Any:
    """A shallow copy of a container attribute, so that what a forward pass appends is dropped again."""
    if isinstance(value, dict | list | set):
        return value.copy()
    return value


def _put_back(current: Any, kept: Any) -> None:
    """Restores a container in place: others may hold a reference to it."""
    if isinstance(current, list):
        current[:] = kept
    else:
        current.clear()
        current.update(kept)


@contextmanager
def undisturbed(model: nn.Module, *, seed: int | None = None, train: bool | None = None) -> Iterator[nn.Module]:
    """Lets code run a model and change it; afterwards everything is as before.

    Restored: parameters, buffers and tensor attributes by value and by identity, gradients, train/eval
    flags, `requires_grad`, hooks, sub-modules, lists and dictionaries on modules (caches), and the random
    state of torch (every device), numpy and Python.

    Args:
        model: the user's model.
        seed: seeds torch, numpy and Python inside the block; None leaves the random state alone.
        train: puts the model in train (True) or eval (False) mode inside the block; None leaves it.

    Yields:
        the model.
    """
    modules = list(model.modules())
    states = [
        _ModuleState(
            attributes=dict(module.__dict__),
            containers={name: _copied(value) for name, value in module.__dict__.items() if _is_container(value)},
        )
        for module in modules
    ]
    tensors = _tensors(modules)
    values = [tensor.detach().clone() for tensor in tensors]
    gradients = [(tensor, tensor.grad, None if tensor.grad is None else tensor.grad.clone()) for tensor in tensors
                 if tensor.is_leaf]
    requires = [(tensor, tensor.requires_grad) for tensor in tensors if tensor.is_leaf]
    random_states = _random_states()
    try:
        if train is not None:
            model.train(train)
        if seed is not None:
            seed_everything(seed)
        yield model
    finally:
        for module, state in zip(modules, states, strict=True):
            module.__dict__.clear()
            module.__dict__.update(state.attributes)
            for name, kept in state.containers.items():
                _put_back(module.__dict__[name], kept)
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                if tensor.data.shape != value.shape:
                    tensor.data = value
                elif not _same(tensor, value):
                    tensor.data.copy_(value)
        for tensor, wanted in requires:
            if tensor.requires_grad != wanted:
                tensor.requires_grad_(wanted)
        for tensor, gradient, copy in gradients:
            if gradient is not None and copy is not None:
                gradient.data.copy_(copy)
            tensor.grad = gradient
        _set_random_states(random_states)


def seed_everything(seed: int) -> None:
    """Seeds torch, numpy and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def _is_container(value: Any) -> bool:
    return isinstance(value, dict | list | set)


def _tensors(modules: list[nn.Module]) -> list[Tensor]:
    """Every tensor that hangs on a module, once each."""
    found: dict[int, Tensor] = {}

    def visit(value: Any, depth: int) -> None:
        if isinstance(value, Tensor):
            if not value.is_meta:
                found.setdefault(id(value), value)
        elif depth and isinstance(value, dict):
            for item in value.values():
                visit(item, depth - 1)
        elif depth and isinstance(value, list | tuple):
            for item in value:
                visit(item, depth - 1)

    for module in modules:
        for name, value in module.__dict__.items():
            if name != "_modules":
                visit(value, 2)
    return list(found.values())


def _same(tensor: Tensor, value: Tensor) -> bool:
    """Bitwise-enough equality: NaN equals NaN."""
    if tensor.layout is not torch.strided or tensor.is_quantized:
        return False
    return bool(torch.equal(tensor.detach(), value)) or bool(
        tensor.is_floating_point() and torch.allclose(tensor.detach(), value, rtol=0, atol=0, equal_nan=True)
    )


def _random_states() -> dict[str, Any]:
    states: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state(),
        "python": random.getstate(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def _set_random_states(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["torch"])
    np.random.set_state(states["numpy"])
    random.setstate(states["python"])
    if "cuda" in states:
        torch.cuda.set_rng_state_all(states["cuda"])
