"""Row provenance: which example and position of the batch every row of a tensor belongs to.

A row follows position-wise operations (linear maps, norms, activations, residual additions) unchanged, and
layout operations wherever they move it. Feature axes have size one, so a whole network is followed for the
price of its token ids.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attnscope.anatomy.contraction import contraction_of
from attnscope.anatomy.layout import moved, overwritten
from attnscope.anatomy.record import Operation, Value
from attnscope.anatomy.vocabulary import (
    BINARY,
    CAST,
    CONVOLUTION,
    FUSED,
    JOIN,
    LAYOUT,
    LOOKUP,
    POOLING,
    RECURRENT,
    REDUCTION,
    UNARY,
)

_LARGEST = 1 << 25


@dataclass(frozen=True, eq=False)
class Rows:
    """For every element of a value (feature axes have size one): flat index in the batch tensor `root`; -1: none."""

    root: Value
    index: Tensor


class Provenance:
    """Follows rows back to the batch."""

    def __init__(self) -> None:
        self._memo: dict[int, Rows | None] = {}

    def rows(self, value: Value) -> Rows | None:
        """The rows of a value, or None when they cannot be followed."""
        waiting = [value]
        while waiting:
            current = waiting[-1]
            if current.number in self._memo:
                waiting.pop()
                continue
            needed = self._carriers(current)
            missing = [item for item in needed if item.number not in self._memo]
            if missing:
                waiting.append(missing[0])
                continue
            try:
                self._memo[current.number] = self._compute(current, needed)
            except (RuntimeError, IndexError, TypeError, ValueError):
                self._memo[current.number] = None
            waiting.pop()
        return self._memo[value.number]

    def _carriers(self, value: Value) -> list[Value]:
        """The operands that may carry the rows; the later ones are needed only when the earlier fail."""
        operation = value.producer
        if operation is None or not value.inputs:
            return []
        name = operation.name
        if name in JOIN or name == "written":
            return [item for item in operation.inputs if item.inputs]
        if name in LOOKUP:
            return [operation.args[1]]
        if name in FUSED:
            return [item for item in operation.inputs[:1] if item.inputs] or list(operation.inputs[2:3])
        contraction = contraction_of(operation)
        if contraction is not None:
            return [item for item in (contraction.a, contraction.b) if item.inputs]
        if name in BINARY:
            full = [item for item in operation.inputs if item.inputs and item.numel == value.numel]
            part = [item for item in operation.inputs if item.inputs and item.numel != value.numel]
            # The residual stream is known already: the earliest made operand is the cheapest to follow.
            return sorted(full, key=lambda item: item.number) or part
        if name in LAYOUT | CAST | UNARY | REDUCTION | CONVOLUTION | POOLING | RECURRENT:
            return list(operation.inputs[:1])
        return []

    def _compute(self, value: Value, carriers: list[Value]) -> Rows | None:
        if value.producer is None:
            if value.leaf != "input":
                return None
            return Rows(value, torch.arange(value.numel).reshape(value.shape))
        operation = value.producer
        if operation.name in JOIN:
            return self._joined(operation)
        if operation.name == "written":
            return self._overwritten(operation)
        for carrier in carriers:
            known = self._memo[carrier.number]
            if known is None:
                continue
            index = self._through(operation, value, carrier, known.index)
            if index is not None:
                return Rows(known.root, _narrow(index))
        return None

    def _joined(self, operation: Operation) -> Rows | None:
        parts = [(item, self._memo.get(item.number)) for item in operation.args[0]]
        root = next((known.root for _, known in parts if known is not None), None)
        if root is None:
            return None
        wide = [
            known.index.expand(item.shape) if known is not None and known.root is root
            else torch.full((1,) * len(item.shape), -1).expand(item.shape)
            for item, known in parts
        ]
        return Rows(root, _narrow(operation.func(wide, *operation.args[1:], **operation.kwargs)))

    def _overwritten(self, operation: Operation) -> Rows | None:
        known = {item.number: self._memo.get(item.number) for item in operation.inputs}
        root = next((rows.root for rows in known.values() if rows is not None), None)
        if root is None:
            return None
        indices = {
            item.number: rows.index.expand(item.shape) for item in operation.inputs
            if (rows := known[item.number]) is not None and rows.root is root
        }
        return Rows(root, _narrow(overwritten(operation, indices)))

    def _through(self, operation: Operation, value: Value, carrier: Value, index: Tensor) -> Tensor | None:
        """The rows of `value`, given those of the operand that carries them."""
        name, rank = operation.name, len(value.shape)
        if name in LAYOUT:
            if value.numel > _LARGEST or carrier.numel > _LARGEST:
                return None
            return moved(operation, index.expand(carrier.shape), output=value.output, source=carrier)
        if name in LOOKUP:
            return index.unsqueeze(-1) if name == "embedding" else None
        if name in FUSED:
            side = operation.inputs[0] is carrier
            return index[..., :1] if side else index[..., :1, :1]
        if name in RECURRENT:
            return _through_recurrent(operation, value, index)
        if name in CONVOLUTION or name in POOLING:
            return _through_window(value, index, channels=name in CONVOLUTION)
        contraction = contraction_of(operation)
        if contraction is not None:
            if contraction.form == "product":
                return _reduced(operation, index.expand(contraction.common)
                                if index.dim() == len(contraction.common) else index)
            if carrier is contraction.a:
                row = index[..., :1] if carrier.tensor.dim() > 1 else index[:1]
                row = row if contraction.b.tensor.dim() > 1 else row.squeeze(-1)
            else:
                row = index[..., :1, :] if carrier.tensor.dim() > 1 else index[:1]
                row = row if contraction.a.tensor.dim() > 1 else row.squeeze(-2)
            return _ranked(row, rank)
        if name in REDUCTION:
            return _reduced(operation, index)
        return _ranked(index, rank)


def _ranked(index: Tensor, rank: int) -> Tensor:
    while index.dim() < rank:
        index = index.unsqueeze(0)
    return index


def _reduced(operation: Operation, index: Tensor) -> Tensor:
    """The rows of a reduction: those of the first element that it reduces."""
    dims = operation.argument(1, "dim")
    if dims is None or dims == [] or isinstance(dims, bool | float):
        return index.reshape(-1)[:1].reshape(())
    if operation.name in ("norm", "linalg_vector_norm"):
        dims = operation.argument(2, "dim")
    axes = sorted((axis % index.dim() for axis in ([dims] if isinstance(dims, int) else dims)), reverse=True)
    kept = operation.out.tensor.dim() == index.dim()
    for axis in axes:
        index = index.narrow(axis, 0, 1)
        if not kept:
            index = index.squeeze(axis)
    return index


def _through_recurrent(operation: Operation, value: Value, index: Tensor) -> Tensor | None:
    """A recurrent network's output has its input's rows; its last state has the rows of the first step."""
    if operation.name.endswith("_cell") or value.output == 0:
        return index[..., :1]
    if isinstance(operation.args[1], Value) and operation.func._schema.overload_name == "data":
        return None
    batch_first = bool(operation.args[-1])
    first = index[:, :1, :1] if batch_first else index[:1, :, :1]
    return first.transpose(0, 1) if batch_first else first


def _through_window(value: Value, index: Tensor, *, channels: bool) -> Tensor:
    """A window's output has the row at its place in the input; channels are features."""
    if channels:
        index = index.narrow(index.dim() - (value.tensor.dim() - 1), 0, 1)
    spatial = value.tensor.dim() - 2
    for axis in range(index.dim() - spatial, index.dim()):
        size, wanted = index.shape[axis], value.shape[axis - index.dim()]
        if size != wanted and size > 1:
            index = index.index_select(axis, (torch.arange(wanted) * size) // wanted)
    return index


def _narrow(index: Tensor) -> Tensor:
    """Drops copies: an axis along which nothing changes gets size one."""
    for axis in range(index.dim()):
        size = index.shape[axis]
        if size > 1 and (index.stride(axis) == 0 or (bool((index.narrow(axis, 1, 1) == index.narrow(axis, 0, 1)).all())
                         and bool((index == index.narrow(axis, 0, 1)).all()))):
            index = index.narrow(axis, 0, 1)
    return index
