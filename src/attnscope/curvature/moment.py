"""A model's tensors at one moment, copied in a chosen precision, standing in the model while it is used."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from attnscope.curvature.sharded import full, gathered, without_gathering
from attnscope.errors import CaseError


class Moment:
    """Private copies of a model's parameters and buffers.

    While `standing`, the model computes with the copies and is in eval mode; outside, it is untouched. The
    copies are leaves of their own, so a graph that was built on them stays valid when the user goes on
    training, and no gradient or hook of the user's parameters is ever reached. Tied tensors stay tied.
    Parameters that FSDP2 has sharded are whole in the copies, and the model does not gather its own meanwhile.

    Attributes:
        model: the user's model.
        dtype: precision of every floating-point tensor.
        parameters: name -> private copy; only those in `differentiate` require a gradient.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype, differentiate: Collection[str]) -> None:
        self.model = model
        self.dtype = dtype
        self._copies: dict[int, Tensor] = {}
        self._kept: list[Tensor] = []  # ids stay unique only as long as the originals live
        self.parameters: dict[str, Tensor] = {}
        self._gathered = gathered(model)
        self.originals = tuple(model.parameters())
        for name, parameter in model.named_parameters():
            self.parameters[name] = self._copy(parameter, name in differentiate)
        for buffer in model.buffers():
            self._copy(buffer, False)
        self._changes = [change for module in model.modules() for change in self._changes_in(module)]

    @contextmanager
    def standing(self) -> Iterator[nn.Module]:
        """The model with the copies in place of its own tensors, in eval mode; put back also on errors."""
        modes = [(module, module.training) for module in self.model.modules()]
        undo: list[Callable[[], None]] = []
        try:
            for container, key, _, copy in self._changes:
                undo.append(_putter(container, key, container[key]))
                container[key] = copy
            for module, _ in modes:
                module.training = False
            yield self.model
        finally:
            for module, mode in modes:
                module.training = mode
            for put_back in reversed(undo):
                put_back()

    def _copy(self, tensor: Tensor, differentiate: bool) -> Tensor:
        known = self._copies.get(id(tensor))
        if known is None:
            with torch.inference_mode(False):
                dtype = self.dtype if tensor.is_floating_point() else tensor.dtype
                source = full(tensor.detach()) if id(tensor) in self._gathered else tensor.detach()
                known = source.to(dtype, copy=True)
                if isinstance(tensor, nn.Parameter):
                    known = nn.Parameter(known, requires_grad=differentiate)
            self._copies[id(tensor)] = known
            self._kept.append(tensor)
        return known

    def _changes_in(self, module: nn.Module) -> Iterator[tuple[Any, Any, Any, Any]]:
        """Every place in a module that holds a tensor, or gathers one: `(container, key, original, copy)`."""
        yield from without_gathering(module)
        for registry in (module._parameters, module._buffers):
            for name, tensor in registry.items():
                if tensor is not None:
                    yield registry, name, tensor, self._copy(tensor, False)
        for name, value in module.__dict__.items():
            if name not in ("_parameters", "_buffers", "_modules"):
                copy = self._copied(value)
                if copy is not value:
                    yield module.__dict__, name, value, copy

    def _copied(self, value: Any, depth: int = 3) -> Any:
        """The value with tensors replaced by their copies; the same object when it holds none."""
        if isinstance(value, Tensor):
            plain = not (value.is_meta or value.is_quantized) and value.layout is torch.strided
            return self._copy(value, False) if plain else value
        if depth and type(value) in (list, tuple):
            items = [self._copied(item, depth - 1) for item in value]
            return type(value)(items) if any(a is not b for a, b in zip(items, value, strict=True)) else value
        if depth and type(value) is dict:
            found = {key: self._copied(item, depth - 1) for key, item in value.items()}
            return found if any(found[key] is not value[key] for key in value) else value
        return value


def _putter(container: Any, key: Any, value: Any) -> Callable[[], None]:
    def put() -> None:
        container[key] = value

    return put


def check_tensors(model: nn.Module) -> None:
    """Refuses a model with a tensor that curvature cannot be computed with.

    Raises:
        CaseError: a tensor on the meta device, quantised, sparse, complex, without a shape yet, or not
            finite; says which, and what to do.
    """
    for name, parameter in model.named_parameters():
        _check_tensor("parameter", name, parameter)
    for name, buffer in model.named_buffers():
        _check_tensor("buffer", name, buffer)


def _check_tensor(what: str, name: str, tensor: Tensor) -> None:
    if is_lazy(tensor):
        raise CaseError(f"{what} {name!r} has no shape yet (a lazy module); run the model on a batch first")
    if tensor.is_meta:
        raise CaseError(f"{what} {name!r} is on the meta device and holds no numbers; load the weights first")
    if tensor.is_quantized:
        raise CaseError(f"{what} {name!r} is quantised ({tensor.dtype}); use the model before quantisation")
    if tensor.layout is not torch.strided:
        raise CaseError(f"{what} {name!r} has layout {tensor.layout}; convert it with .to_dense()")
    if tensor.is_complex():
        if what == "parameter":
            raise CaseError(f"{what} {name!r} is complex; curvature is defined for real parameters only")
        return
    if tensor.is_floating_point() and tensor.numel():
        # A buffer may hold -inf by design (an additive mask); a parameter may not.
        tensor = full(tensor)  # all processes must come to the same answer
        bad = tensor.isnan() if what != "parameter" else ~tensor.isfinite()
        if bool(bad.any()):
            where = tuple(int(index) for index in bad.nonzero()[0])
            raise CaseError(
                f"{what} {name!r} has {int(bad.sum())} entries that are not finite, the first at {where}; "
                "curvature is undefined there. Load an earlier checkpoint"
            )
