"""Batches as nests of tensors: listed, cast, checked, and cut along the batch dimension."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from attnscope.errors import CaseError


def leaves(nest: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a nest of mappings, lists and tuples, with its path, such as `['input_ids']`."""
    if isinstance(nest, Mapping):
        for key in nest:
            yield from leaves(nest[key], f"{path}[{key!r}]")
    elif isinstance(nest, list | tuple):
        for index, item in enumerate(nest):
            yield from leaves(item, f"{path}[{index}]")
    else:
        yield path, nest


def mapped(nest: Any, change: Callable[[Any], Any]) -> Any:
    """The nest, rebuilt in its own types, with every leaf changed."""
    if isinstance(nest, Mapping):
        items = {key: mapped(nest[key], change) for key in nest}
        if type(nest) is dict:
            return items
        rebuilt: Any = copy.copy(nest)
        for key, item in items.items():
            rebuilt[key] = item
        return rebuilt
    if isinstance(nest, list):
        return [mapped(item, change) for item in nest]
    if isinstance(nest, tuple):
        values = [mapped(item, change) for item in nest]
        return type(nest)(*values) if hasattr(nest, "_fields") else tuple(values)
    return change(nest)


def cast(batch: Any, dtype: torch.dtype) -> Any:
    """The batch with its floating-point tensors in `dtype`, detached from any graph.

    Raises:
        CaseError: a tensor holds NaN (infinities are allowed: masks have them).
    """
    for path, leaf in leaves(batch):
        if isinstance(leaf, Tensor) and leaf.is_floating_point() and bool(leaf.isnan().any()):
            bad = leaf.isnan()
            rows = bad.reshape(leaf.shape[0], -1).any(1).nonzero().flatten().tolist() if leaf.ndim else []
            which = f", in example {', '.join(map(str, rows[:5]))}" if rows else ""
            raise CaseError(f"the batch holds NaN at batch{path}{which}; remove it from the data")

    def change(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        with torch.inference_mode(False):
            plain = leaf.detach().clone() if leaf.is_inference() else leaf.detach()
            return plain.to(dtype) if plain.is_floating_point() else plain

    return mapped(batch, change)


def n_examples(batch: Any) -> int | None:
    """How many examples the batch holds: the first size of its first tensor; None when there is none."""
    for _, leaf in leaves(batch):
        if isinstance(leaf, Tensor) and leaf.ndim:
            return int(leaf.shape[0])
    return None


def examples(batch: Any, start: int, stop: int) -> Any:
    """Examples `start` to `stop`: tensors of the batch's first size are cut, the rest is kept whole."""
    count = n_examples(batch)

    def change(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] == count:
            return leaf[start:stop]
        return leaf

    return mapped(batch, change)


def listed(batches: Iterable[Any]) -> list[Any]:
    """The batches as a list, which is read once.

    Raises:
        CaseError: there are none, or a single batch was passed instead of a list of batches.
    """
    if isinstance(batches, Mapping | Tensor):
        raise CaseError("batches must be a list of batches; found one batch: wrap it in a list")
    found = list(batches)
    if not found:
        raise CaseError("there is no batch: the list is empty, or the iterator was exhausted before")
    return found
