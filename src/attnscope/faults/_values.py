"""Changes the values that an attention weighs, inside the user's own forward pass and above autograd.

The pattern is followed from its softmax to the first product with another tensor: those are the values, whether
they are projected, shared or (in a HAN) the hidden states themselves.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults._projections import run_quietly
from attnscope.faults._scores import FUSED, SOFTMAX, Scores, Watching, pooled_of, sites_of

PRODUCTS = {"matmul", "__matmul__", "bmm", "einsum"}
TIMES = {"mul", "mul_", "__mul__", "__rmul__", "multiply"}
PASSING = {
    "dropout", "unsqueeze", "squeeze", "transpose", "permute", "view", "reshape", "contiguous", "to", "type_as",
    "float", "masked_fill", "nan_to_num", "expand", "flatten", "clone", "__getitem__",
}

Change = Callable[[Tensor, int], Tensor]  # the values and their axis of keys -> other values


def _unasked(scores: Scores) -> Tensor:
    raise AssertionError("the scores are left alone")


@dataclass
class Weighing(Watching):
    """The mode of one forward pass."""

    change: Change = lambda value, axis: value
    patterns: dict[int, tuple[Tensor, int, int]] = field(default_factory=dict)  # tensor, softmax axis, keys

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs the call; the product of pattern and values with other values."""
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        layer = self._layer() if name in SOFTMAX | FUSED else None
        if layer is not None and layer in self.layers:
            if name in FUSED:
                return func(*self._fused_values(list(args), kwargs), **kwargs)
            output = func(*args, **kwargs)
            dim = int(args[1] if len(args) > 1 else kwargs.get("dim", -1)) % output.ndim
            self.patterns = {id(output): (output, dim, output.shape[dim])}
            return output
        if self.patterns:
            return self._after_softmax(func, name, args, kwargs)
        return func(*args, **kwargs)

    def _fused_values(self, args: list[Any], kwargs: dict[str, Any]) -> list[Any]:
        if len(args) > 2:
            args[2] = self.change(args[2], args[2].ndim - 2)
        else:
            kwargs["value"] = self.change(kwargs["value"], kwargs["value"].ndim - 2)
        return args

    def _after_softmax(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        operands = [each for each in args if isinstance(each, Tensor)]
        pattern = next((each for each in operands if id(each) in self.patterns), None)
        if pattern is None:
            return func(*args, **kwargs)
        _, dim, n_keys = self.patterns[id(pattern)]
        others = [each for each in operands if each is not pattern]
        if name in PRODUCTS | TIMES and len(others) == 1 and others[0].ndim >= pattern.ndim - 1:
            axis = _key_axis(name, args, pattern, others[0], dim, n_keys)
            if axis is not None:
                self.patterns = {}
                changed = self.change(others[0], axis)
                return func(*(changed if each is others[0] else each for each in args), **kwargs)
        output = func(*args, **kwargs)
        if isinstance(output, Tensor) and name in PASSING | TIMES:
            self.patterns[id(output)] = (output, dim, n_keys)
        return output


def _key_axis(name: str, args: tuple[Any, ...], pattern: Tensor, value: Tensor, dim: int, n_keys: int) -> int | None:
    """Which axis of the values is that of the keys; None when this product is not the one that weighs them."""
    if name == "einsum":
        return _einsum_axis(args, pattern)
    if name in PRODUCTS:
        first = next(each for each in args if isinstance(each, Tensor)) is pattern
        axis = max(value.ndim - 2, 0) if first else value.ndim - 1
        return axis if value.shape[axis] == n_keys else None
    if value.ndim != pattern.ndim or value.shape == pattern.shape:
        return None  # a mask or a gate, which has the pattern's own shape
    alike = [axis for axis in range(value.ndim) if value.shape[axis] == pattern.shape[axis] == n_keys]
    return dim if dim in alike else (alike[-1] if alike else None)


def _einsum_axis(args: tuple[Any, ...], pattern: Tensor) -> int | None:
    left, _, output = str(args[0]).replace(" ", "").partition("->")
    names = left.split(",")
    if len(names) != 2 or "." in left:
        return None
    mine = 0 if args[1] is pattern else 1
    summed = [letter for letter in names[mine] if letter in names[1 - mine] and letter not in output]
    return names[1 - mine].index(summed[0]) if len(summed) == 1 else None


def revalue(model: nn.Module, anatomy: Anatomy, layer: int, change: Change) -> None:
    """From now on one attention of the model weighs other values.

    The model gets a class of the same name with another `forward`, so copies of the model keep the change.
    """
    sites, pooled = sites_of(anatomy), pooled_of(anatomy)
    original = type(model)

    @functools.wraps(original.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with Weighing(sites, frozenset((layer,)), _unasked, self.training, pooled, change=change):
            return original.forward(self, *args, **kwargs)

    body = {"forward": forward, "__module__": original.__module__, "__qualname__": original.__qualname__}
    model.__class__ = type(original.__name__, (original,), body)


def obstacle_of_values(case: Case, anatomy: Anatomy, layer: int) -> str:
    """Why the values of a layer cannot be changed, or an empty string."""
    seen: list[int] = []

    def look(value: Tensor, axis: int) -> Tensor:
        seen.append(axis)
        return value

    with torch.no_grad(), Weighing(sites_of(anatomy), frozenset((layer,)), _unasked, change=look):
        run_quietly(case)
    return "" if seen else "the product of pattern and values of this attention was not seen among the calls of torch"
