"""Keeps a model's whole state and puts it back exactly, also after an exception or Ctrl-C."""

from __future__ import annotations

import copy
import random
import signal
import threading
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter, is_lazy

from attnscope.errors import AttnscopeError

_MAX_DEPTH = 6  # how deep a module's own containers and plain objects are followed
_MAX_OBJECTS = 20_000  # and how many, so that a trainer or a dataset hung on a module costs nothing
_OPAQUE = (
    nn.Module, Tensor, type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType,
    types.MethodType, torch.dtype, torch.device, torch.Generator, np.ndarray, np.random.Generator,
    np.random.RandomState, random.Random, str, bytes, int, float, complex, bool, type(None), threading.Thread,
)


# Their constructors are not typed.
_new_parameter: Callable[..., Any] = UninitializedParameter
_new_buffer: Callable[..., Any] = UninitializedBuffer


@contextmanager
def undisturbed(
    model: nn.Module, *, seed: int | None = None, train: bool | None = None
) -> Iterator[nn.Module]:
    """Lets code run a model and change it; afterwards everything is as before.

    Restored: parameters, buffers and tensor attributes by value and by identity, gradients, train/eval
    flags, `requires_grad`, hooks of modules and tensors, sub-modules, module classes, containers, arrays,
    random generators and plain objects that hang on modules (caches, counters), the random state of torch
    (every device), numpy and Python, and torch's global switches. A lazily built module works on stand-ins
    inside the block and is as unbuilt as before after it. Not restored: what lives outside the model, such
    as files, global variables of the user's module and the batch.

    Args:
        model: the user's model.
        seed: seeds torch, numpy and Python inside the block; None leaves the random state alone.
        train: puts the model in train (True) or eval (False) mode inside the block; None leaves it.

    Yields:
        the model.

    Raises:
        AttnscopeError: something could not be put back; the message names it. The rest was.
    """
    kept = _Kept.of(model)
    try:
        _stand_in_for_lazy(model)
        if train is not None:
            model.train(train)
        if seed is not None:
            seed_everything(seed)
        yield model
    finally:
        with _uninterrupted():
            kept.put_back()


def seed_everything(seed: int) -> None:
    """Seeds torch, numpy and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def is_unbuilt(model: nn.Module) -> bool:
    """Whether the model has parameters or buffers that a first forward pass is yet to give a shape."""
    return any(
        is_lazy(value)
        for module in model.modules()
        for value in (*module._parameters.values(), *module._buffers.values())
        if value is not None
    )


@dataclass
class _Kept:
    """All that is put back, each part on its own: one that fails does not keep the others from it."""

    holders: _Holders
    tensors: list[_KeptTensor]
    random_states: dict[str, Any]
    switches: dict[str, Any]

    @classmethod
    def of(cls, model: nn.Module) -> _Kept:
        holders = _Holders()
        for module in model.modules():
            holders.visit(module, _MAX_DEPTH)
        return cls(
            holders=holders, tensors=[_KeptTensor.of(tensor) for tensor in holders.tensors],
            random_states=_random_states(), switches=_switches(),
        )

    def put_back(self) -> None:
        failed: list[str] = []

        def attempt(what: str, action: Callable[[], None]) -> None:
            try:
                action()
            except Exception as error:  # whatever it is, the remaining parts are still put back
                failed.append(f"{what} ({type(error).__name__}: {error})")

        for value in self.holders.empty:
            if value:
                attempt(f"a {type(value).__name__}", value.clear)
        for value, action in self.holders.actions:
            attempt(f"a {type(value).__name__}", action)
        for tensor in self.tensors:
            attempt(f"a tensor of shape {tuple(tensor.tensor.shape)}", tensor.put_back)
        attempt("random states", lambda: _set_random_states(self.random_states))
        attempt("torch's switches", lambda: _set_switches(self.switches))
        if failed:
            raise AttnscopeError(
                f"the model's state could not be put back completely: {'; '.join(failed[:3])}; "
                "load the model again before using it"
            )


def _restore_module(module: nn.Module, kind: type, attributes: dict[str, Any]) -> None:
    if type(module) is not kind:
        module.__class__ = kind  # a lazy module turns into its built class in its first forward pass
    current = module.__dict__
    if list(current) == list(attributes) and all(current[name] is attributes[name] for name in attributes):
        return
    current.clear()
    current.update(attributes)


@dataclass
class _KeptTensor:
    """One tensor: its storage by identity, its values, its gradient, its flags, its hooks."""

    tensor: Tensor
    alias: Tensor  # the same storage, so that a forward pass that swaps the storage is undone by identity
    value: Tensor
    leaf: bool
    requires_grad: bool
    gradient: Tensor | None
    gradient_value: Tensor | None
    hooks: list[tuple[str, Any, dict[Any, Any] | None]]

    @classmethod
    def of(cls, tensor: Tensor) -> _KeptTensor:
        gradient = tensor.grad if tensor.is_leaf else None
        return cls(
            tensor=tensor, alias=tensor.detach(), value=tensor.detach().clone(), leaf=tensor.is_leaf,
            requires_grad=tensor.requires_grad, gradient=gradient,
            gradient_value=None if gradient is None else gradient.detach().clone(),
            hooks=[(name, held, None if held is None else dict(held)) for name, held in _hooks_of(tensor)],
        )

    def put_back(self) -> None:
        tensor = self.tensor
        for name, hooks, content in self.hooks:
            if hooks is not None and content is not None:
                hooks.clear()
                hooks.update(content)
            if getattr(tensor, name, None) is not hooks:
                setattr(tensor, name, hooks)
        with torch.no_grad():
            if not _same_place(tensor, self.alias):
                tensor.data = self.alias
            _put_values(self.alias, self.value)
        if not self.leaf:
            return
        if tensor.requires_grad != self.requires_grad:
            tensor.requires_grad_(self.requires_grad)
        if self.gradient is not None and self.gradient_value is not None:
            _put_values(self.gradient.detach(), self.gradient_value)
        if tensor.grad is not self.gradient:
            tensor.grad = self.gradient


def _is_freed(tensor: Tensor) -> bool:
    """Whether the storage was given back, as FSDP does with what it has gathered; reading it ends the process."""
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout is not torch.strided or tensor.numel() == 0:
        return False
    return tensor.untyped_storage().size() == 0


def _hooks_of(tensor: Tensor) -> list[tuple[str, Any]]:
    names = ("_backward_hooks", "_post_accumulate_grad_hooks")
    return [(name, getattr(tensor, name, None)) for name in names]


def _same_place(tensor: Tensor, alias: Tensor) -> bool:
    if tensor.dtype != alias.dtype or tensor.device != alias.device or tensor.shape != alias.shape:
        return False
    if tensor.layout is not torch.strided or tensor.is_quantized:
        return tensor.layout is alias.layout
    return tensor.stride() == alias.stride() and tensor.data_ptr() == alias.data_ptr()


def _put_values(current: Tensor, value: Tensor) -> None:
    """Writes `value` over `current` where they differ; a tensor that is as it was is not written to."""
    if _same_values(current, value):
        return
    with torch.inference_mode(current.is_inference()):
        current.copy_(value)


def _same_values(current: Tensor, value: Tensor) -> bool:
    """Bit for bit, so that a NaN equals the same NaN and 0.0 is not -0.0."""
    if current.layout is not torch.strided:
        return _same_sparse(current, value)
    if current.is_quantized:
        return bool(torch.equal(current.int_repr(), value.int_repr()))
    if torch.equal(current, value) and not current.is_floating_point():
        return True
    width = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}.get(current.element_size())
    if width is None or current.is_complex():
        return False  # written back without asking
    return bool(torch.equal(current.view(width), value.view(width)))


def _same_sparse(current: Tensor, value: Tensor) -> bool:
    if current.layout is not torch.sparse_coo:
        return False
    return bool(
        torch.equal(current._indices(), value._indices()) and torch.equal(current._values(), value._values())
    )


# Most of what hangs on a module: it holds nothing and cannot change.
_ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size})
_CONTAINERS = frozenset({dict, OrderedDict, list, set})


@dataclass
class _Holders:
    """The modules (in plain lists too), what hangs on them that can change, and the tensors among it."""

    actions: list[tuple[Any, Callable[[], None]]] = field(default_factory=list)
    empty: list[Any] = field(default_factory=list)  # containers without content: a module has a score of them
    tensors: list[Tensor] = field(default_factory=list)
    seen: dict[int, Any] = field(default_factory=dict)

    def visit(self, value: Any, depth: int) -> None:
        """Remembers how `value` is put back, and follows what it holds."""
        kind = type(value)
        if kind in _ATOMS or id(value) in self.seen or len(self.seen) > _MAX_OBJECTS:
            return
        if kind in _CONTAINERS and not value:
            self.seen[id(value)] = value
            self.empty.append(value)
            return
        if isinstance(value, Tensor):
            self.seen[id(value)] = value
            if not (value.is_meta or is_lazy(value) or _is_freed(value)):
                self.tensors.append(value)
                self.visit(getattr(value, "__dict__", {}), 1)
            return
        self._remember(value, depth)

    def _remember(self, value: Any, depth: int) -> None:
        restore = _restorer(value)
        if restore is None or depth == 0:
            return
        self.seen[id(value)] = value  # kept alive, so that no other object takes its id
        self.actions.append((value, restore))
        below = _MAX_DEPTH if isinstance(value, nn.Module) else depth - 1
        for item in list(_held(value)):
            self.visit(item, below)


def _restorer(value: Any) -> Callable[[], Any] | None:
    """How this very object gets its content back; None when it has none that can change."""
    if isinstance(value, nn.Module):
        return partial(_restore_module, value, type(value), dict(value.__dict__))
    if isinstance(value, list | deque):
        return partial(_refill, value, list(value))
    if isinstance(value, dict):
        return partial(_refill_mapping, value, dict(value))
    if isinstance(value, set):
        return partial(_refill_set, value, set(value))
    if isinstance(value, tuple):
        return partial(tuple)  # itself fixed; what it holds is followed
    if isinstance(value, np.ndarray) and value.dtype != object and value.flags.writeable:
        return partial(np.copyto, value, value.copy())
    generator = _generator_restorer(value)
    if generator is not None:
        return generator
    attributes = None if isinstance(value, _OPAQUE) else getattr(value, "__dict__", None)
    return partial(_refill_mapping, attributes, dict(attributes)) if isinstance(attributes, dict) else None


def _generator_restorer(value: Any) -> Callable[[], Any] | None:
    if isinstance(value, torch.Generator):
        return partial(value.set_state, value.get_state())
    if isinstance(value, np.random.Generator):
        state = copy.deepcopy(value.bit_generator.state)
        return partial(setattr, value.bit_generator, "state", state)
    if isinstance(value, np.random.RandomState):
        return partial(value.set_state, value.get_state())
    if isinstance(value, random.Random):
        return partial(value.setstate, value.getstate())
    return None


def _held(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list | deque | tuple | set):
        yield from value
    elif isinstance(value, nn.Module) or not isinstance(value, _OPAQUE):
        yield from getattr(value, "__dict__", {}).values()


def _same_items(current: Any, kept: list[Any]) -> bool:
    return len(current) == len(kept) and all(a is b for a, b in zip(current, kept, strict=True))


def _refill(current: Any, kept: list[Any]) -> None:
    """In place: others may hold a reference to the container."""
    if not _same_items(current, kept):
        current.clear()
        current.extend(kept)


def _refill_set(current: set[Any], kept: set[Any]) -> None:
    if current != kept:
        current.clear()
        current.update(kept)


def _refill_mapping(current: dict[Any, Any], kept: dict[Any, Any]) -> None:
    if _same_items(list(current), list(kept)) and _same_items(list(current.values()), list(kept.values())):
        return
    # A user's subclass may override these methods; an OrderedDict needs its own.
    kind = OrderedDict if isinstance(current, OrderedDict) else dict
    kind.clear(current)
    kind.update(current, kept)


def _stand_in_for_lazy(model: nn.Module) -> None:
    """Puts fresh unbuilt parameters in the place of the user's, which so stay unbuilt."""
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            held_anything: dict[str, Any] = held
            for name, value in list(held.items()):
                if value is None or not is_lazy(value):
                    continue
                if isinstance(value, UninitializedParameter):
                    held_anything[name] = _new_parameter(
                        requires_grad=value.requires_grad, device=value.device, dtype=value.dtype
                    )
                else:
                    held_anything[name] = _new_buffer(device=value.device, dtype=value.dtype)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Holds a Ctrl-C back until the block is done, then raises it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pending: list[int] = []
    try:
        old = signal.signal(signal.SIGINT, lambda number, frame: pending.append(number))
    except ValueError:  # not the main interpreter
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, old)
    if pending:
        raise KeyboardInterrupt


def _switches() -> dict[str, Any]:
    return {
        "dtype": torch.get_default_dtype(),
        "grad": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "cudnn": torch.backends.cudnn.enabled,
        "flash": torch._C._get_flash_sdp_enabled(),
        "efficient": torch._C._get_mem_efficient_sdp_enabled(),
        "math": torch._C._get_math_sdp_enabled(),
        "fastpath": torch.backends.mha.get_fastpath_enabled(),
    }


def _set_switches(kept: dict[str, Any]) -> None:
    now = _switches()
    if now == kept:
        return
    torch.set_default_dtype(kept["dtype"])
    torch.set_grad_enabled(kept["grad"])
    torch.use_deterministic_algorithms(kept["deterministic"], warn_only=kept["warn_only"])
    torch.backends.cudnn.enabled = kept["cudnn"]
    torch.backends.cuda.enable_flash_sdp(kept["flash"])
    torch.backends.cuda.enable_mem_efficient_sdp(kept["efficient"])
    torch.backends.cuda.enable_math_sdp(kept["math"])
    torch.backends.mha.set_fastpath_enabled(kept["fastpath"])


def _random_states() -> dict[str, Any]:
    states: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state(),
        "python": random.getstate(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def _set_random_states(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["torch"])
    np.random.set_state(states["numpy"])
    random.setstate(states["python"])
    if "cuda" in states:
        with suppress(RuntimeError):
            torch.cuda.set_rng_state_all(states["cuda"])
