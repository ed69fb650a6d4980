"""Changes what one projection of a model does, by hooks that a copy of the model takes along.

A hook is a small object on the module that owns the weights. It holds numbers and other modules of the same
model at most, so that a deep copy of the model has its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case, default_forward

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def owner_of(model: nn.Module, anatomy: Anatomy, block: str) -> nn.Module | None:
    """The module whose own `weight` is all that the block's first slice is; None for a slice or a bare parameter."""
    if not block:
        return None
    piece = anatomy.block(block).slices[0]
    path, _, name = piece.parameter.rpartition(".")
    if piece.dim is not None or name != "weight":
        return None
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def obstacle_of_projection(case: Case, anatomy: Anatomy, block: str, what: str) -> str:
    """Why the projection of a block cannot be changed where it is called, or an empty string.

    Args:
        case: the case.
        anatomy: of its model.
        block: its name, or "" when the attention has none.
        what: how to speak of it, such as `value projection`.
    """
    if not block:
        return f"this attention has no {what}"
    owner = owner_of(case.model, anatomy, block)
    if not isinstance(owner, (nn.Linear, *CONVOLUTIONS)):
        return f"the {what} is not a linear layer or a convolution of its own"
    return "" if was_called(case, owner) else f"the {what} is used without a call of its module"


def was_called(case: Case, module: nn.Module) -> bool:
    """Whether the forward pass of the first batch calls the module."""
    calls: list[int] = []

    def count(*_: Any) -> None:
        calls.append(1)

    handle = module.register_forward_hook(count)
    try:
        run_quietly(case)
    finally:
        handle.remove()
    return bool(calls)


def run_quietly(case: Case) -> None:
    """One forward pass of the first batch in eval mode that leaves no trace."""
    was_training = case.model.training
    case.model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng():
            (case.forward or default_forward)(case.model, next(iter(case.batches)))
    finally:
        case.model.train(was_training)


def applied(module: nn.Module, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What a linear layer or convolution makes of its input with other weights."""
    if isinstance(module, CONVOLUTIONS):
        convolved: Tensor = module._conv_forward(hidden, weight, bias)
        return convolved
    return nn.functional.linear(hidden, weight, bias)


def mixed(right: Tensor, wrong: Tensor, strength: float) -> Tensor:
    """(1 - strength) right + strength wrong; at 1 nothing leads back to what is right, as in wrong code."""
    return wrong if strength == 1 else right.lerp(wrong, strength)


@dataclass
class Reweighted:
    """A forward hook: the same layer with its weights changed by a function."""

    change: Callable[[Tensor], Tensor]

    def __call__(self, module: Any, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """The output that the changed weights make."""
        return applied(module, args[0], self.change(module.weight), module.bias)


@dataclass
class InputChanged:
    """A forward pre-hook: the layer gets another first input."""

    change: Callable[[Tensor], Tensor]

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments with the first one changed."""
        return (self.change(args[0]), *args[1:])


@dataclass
class OutputChanged:
    """A forward hook: what comes out of a module is changed; of a tuple its first."""

    change: Callable[[Tensor], Tensor]

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """The changed output."""
        if isinstance(output, tuple):
            return (self.change(output[0]), *output[1:])
        return self.change(output)
