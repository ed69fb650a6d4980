"""Which tensors hold positions: looked up by a running index, or with one row per position."""

from __future__ import annotations

import torch

from attnscope.anatomy.record import Value
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
    return rows > 1 and bool((tensor.narrow(-2, 0, 1) != tensor.narrow(-2, 1, 1)).any()) and tensor.shape[-1] > 1


def _upstream_of(value: Value) -> Value:
    while value.producer is not None and value.producer.name in LAYOUT | CAST | DROPOUT:
        value = value.producer.inputs[0]
    return value


def counts_up(index: torch.Tensor) -> bool:
    """Whether an index tensor runs along positions: each row rises by zero or one, and does rise."""
    if index.dim() == 0 or index.shape[-1] < 2 or index.is_floating_point():
        return False
    rise = index.diff(dim=-1)
    return bool(((rise == 0) | (rise == 1)).all()) and bool((rise == 1).any())
