"""A batch's tensors by path, and a batch with some of them exchanged. The user's is never written to."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor

from attnscope.probe import Probe

_MAX_DEPTH = 4


def tensors(batch: Any) -> dict[str, Tensor]:
    """Path -> tensor, in the order of the batch; paths read `['input_ids']`, `[0]`, `[0].tokens`."""
    return dict(_walk(batch, "", _MAX_DEPTH))


def with_tensors(batch: Any, changes: Mapping[str, Tensor]) -> Any:
    """A batch like this one with other tensors at some paths; what is not on a changed path is shared."""
    return _rebuilt(batch, "", changes, _MAX_DEPTH)


def mapped(batch: Any, change: Callable[[str, Tensor], Tensor]) -> Any:
    """A batch in which every tensor is `change(path, tensor)`."""
    found = tensors(batch)
    changed = {path: change(path, tensor) for path, tensor in found.items()}
    return with_tensors(batch, {path: new for path, new in changed.items() if new is not found[path]})


def n_examples(probe: Probe, batch: Any) -> int | None:
    """How many examples the batch holds: the first size on which its tensors agree; None when they do not."""
    sizes = [tensor.shape[0] for tensor in tensors(batch).values() if tensor.ndim]
    if not sizes:
        return None
    best = max(set(sizes), key=lambda size: (sizes.count(size), -sizes.index(size)))
    return best if sizes.count(best) * 2 > len(sizes) else None


def examples(batch: Any, chosen: list[int], n_all: int, axis: int = 0) -> Any:
    """The batch with only (or with repeated) `chosen` examples; tensors of another size stay as they are."""

    def pick(path: str, tensor: Tensor) -> Tensor:
        if tensor.ndim > axis and tensor.shape[axis] == n_all:
            return tensor.index_select(axis, torch.tensor(chosen, device=tensor.device))
        if axis and tensor.ndim == 1 and tensor.shape[0] == n_all:
            return tensor[torch.tensor(chosen, device=tensor.device)]
        return tensor

    return mapped(batch, pick)


def _entries(value: Any) -> Iterator[tuple[str, Any, Any]]:
    """(path step, key, item) of one level of a batch."""
    if isinstance(value, Mapping):
        yield from ((f"[{key!r}]", key, item) for key, item in value.items())
    elif isinstance(value, list | tuple):
        yield from ((f"[{index}]", index, item) for index, item in enumerate(value))
    elif is_dataclass(value) or type(value).__module__ not in ("builtins", "torch", "numpy"):
        held = getattr(value, "__dict__", None)
        if isinstance(held, dict):
            yield from ((f".{name}", name, item) for name, item in held.items())


def _walk(value: Any, path: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
    elif depth:
        for step, _, item in _entries(value):
            yield from _walk(item, path + step, depth - 1)


def _rebuilt(value: Any, path: str, changes: Mapping[str, Tensor], depth: int) -> Any:
    if path in changes:
        return changes[path]
    if not depth or isinstance(value, Tensor) or not any(changed.startswith(path) for changed in changes):
        return value
    items = {key: _rebuilt(item, path + step, changes, depth - 1) for step, key, item in _entries(value)}
    if isinstance(value, tuple):
        return type(value)(*items.values()) if hasattr(value, "_fields") else tuple(items.values())
    if isinstance(value, list):
        return list(items.values())
    if isinstance(value, Mapping):
        return _rebuilt_mapping(value, items)
    made = copy.copy(value)
    for name, item in items.items():
        object.__setattr__(made, name, item)
    return made


def _rebuilt_mapping(value: Mapping[Any, Any], items: dict[Any, Any]) -> Any:
    """A mapping of the same type when it lets itself be copied and written to, else a dict."""
    try:
        made: Any = copy.copy(value)
        for key, item in items.items():
            made[key] = item
    except Exception:  # an immutable or peculiar mapping: `forward` sees a plain dict
        return dict(items)
    return made
