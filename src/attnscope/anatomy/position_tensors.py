"""Which tensors hold positions: looked up by a running index, or with one row per position."""

from __future__ import annotations

import torch

from attnscope.anatomy.record import Value
from attnscope.anatomy.rows import Provenance
from attnscope.anatomy.vocabulary import CAST, DROPOUT, LAYOUT, LOOKUP


def is_position_tensor(value: Value) -> bool:
    """Whether a tensor is looked up by an arange, or is a parameter or constant with one row per position."""
    origin = _upstream_of(value)
    if origin.producer is not None and origin.producer.name in LOOKUP:
        index = origin.producer.args[1]
        return isinstance(index, Value) and counts_up(index.tensor)
    if value.inputs or value.tensor.dim() < 2 or not value.tensor.is_floating_point():
        return False
    tensor = value.tensor.detach()
    rows = tensor.shape[-2]
    if rows > 1 and origin.leaf == "parameter":
        return True
    return rows > 1 and bool((tensor.narrow(-2, 0, 1) != tensor.narrow(-2, 1, 1)).any()) and tensor.shape[-1] > 1


def _upstream_of(value: Value) -> Value:
    while value.producer is not None and value.producer.name in LAYOUT | CAST | DROPOUT:
        value = value.producer.inputs[0]
    return value


def runs_along_positions(value: Value, other: Value, provenance: Provenance) -> bool:
    """Whether the rows of a tensor that is added to another lie along the other's positions, not its heads."""
    rows = provenance.rows(other)
    if rows is None or rows.index.dim() != other.tensor.dim() or value.tensor.dim() < 2:
        return True
    axis = value.tensor.dim() - 2 - value.tensor.dim()  # counted from the end
    return rows.index.shape[axis] > 1


def counts_up(index: torch.Tensor) -> bool:
    """Whether an index tensor runs along positions: every row rises by one, rests, or falls back to its least."""
    if index.dim() == 0 or index.shape[-1] < 2 or index.is_floating_point():
        return False
    rise = index.diff(dim=-1)
    falls_back = index[..., 1:] == index.amin(-1, keepdim=True)
    steps = ((rise == 0) | (rise == 1) | falls_back).all()
    return bool(steps) and bool((rise == 1).float().mean() >= 0.5)
