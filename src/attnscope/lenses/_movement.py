"""How far a tensor moved that must not move: bit for bit first, then against the precision's rounding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attnscope.anatomy.blocks import Anatomy
from attnscope.anatomy.observe import AttentionTensors, Observation

# Rounding that a reordered sum may leave, in units of the precision's epsilon. An intervention that must not
# move anything leaves the same operations on the same numbers, so nearly always the tensors are equal bit for
# bit; the factor leaves room for kernels that block their sums by content.
_ROUNDINGS = 8


def tolerance(dtype: torch.dtype, roundings: float = _ROUNDINGS) -> float:
    """The relative movement that rounding explains, at this precision."""
    return roundings * torch.finfo(dtype).eps if dtype.is_floating_point else 0.0


def movement(before: Tensor, after: Tensor, where: Tensor | None = None) -> float:
    """The largest change, relative to the largest value before; 0.0 when equal bit for bit.

    Args:
        before: as it was.
        after: as it is, of equal shape.
        where: bool, broadcastable: the entries that are compared. None compares all.

    Returns:
        `inf` when one is finite where the other is not; `nan` when no entry is compared.
    """
    apart = change(before, after)
    size = torch.nan_to_num(before.detach().double(), nan=0.0, posinf=0.0, neginf=0.0).abs().cpu()
    if where is not None:
        where = where.cpu().expand(apart.shape)
        apart = apart[where]
    if apart.numel() == 0:
        return float("nan")
    largest = float(apart.max())
    if largest == 0.0:
        return 0.0
    return largest / max(float(size.max()), torch.finfo(torch.float64).tiny)


def change(before: Tensor, after: Tensor) -> Tensor:
    """Entry by entry, the absolute change in float64 on the CPU; equal infinities and NaNs have not moved."""
    a, b = before.detach().double().cpu(), after.detach().double().cpu()
    same = (a == b) | (a.isnan() & b.isnan())
    apart = (a - b).abs()
    apart = torch.where(torch.isfinite(apart), apart, torch.full_like(apart, float("inf")))
    return torch.where(same, torch.zeros_like(apart), apart)


def main_output(output: Any) -> Tensor | None:
    """What the model says: `logits`, `last_hidden_state`, or the first floating tensor that is no scalar."""
    for name in ("logits", "prediction_logits", "start_logits", "last_hidden_state"):
        found = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(found, Tensor) and found.is_floating_point():
            return found
    return _first(output, depth=3)


def _first(value: Any, depth: int) -> Tensor | None:
    if isinstance(value, Tensor):
        return value if value.is_floating_point() and value.ndim else None
    if not depth:
        return None
    items: Any = ()
    if isinstance(value, Mapping):
        items = value.values()
    elif isinstance(value, list | tuple):
        items = value
    elif hasattr(value, "__dict__"):
        items = vars(value).values()
    for item in items:
        found = _first(item, depth - 1)
        if found is not None:
            return found
    return None


@dataclass(frozen=True)
class LayerMovement:
    """How far one attention's input and result moved where neither may; NaN where that cannot be compared."""

    layer: int
    hidden: float
    context: float


Entries = Callable[[int, int], "Tensor | None"]
"""(batch size, queries) of an attention's layout -> bool [batch, query] of what must not move, or None."""


def layer_movements(
    anatomy: Anatomy, before: Observation, after: Observation, entries: Entries
) -> tuple[LayerMovement, ...]:
    """For every attention, in order, how far its input and its result moved at the entries that must not."""
    found = []
    for attention, old, new in zip(anatomy.attentions, before.attentions, after.attentions, strict=False):
        shape = old.pattern.shape
        where = entries(shape[0], shape[2])
        hidden = context = float("nan")
        if where is not None and old.pattern.shape == new.pattern.shape:
            hidden = _compared(old.hidden, new.hidden, where)
            context = _compared(*results(old, new), where)
        found.append(LayerMovement(attention.layer, hidden, context))
    return tuple(found)


def results(old: AttentionTensors, new: AttentionTensors) -> tuple[Tensor, Tensor | None]:
    """What an attention gave in two runs: its context, or its pattern where no context was seen."""
    return (old.context, new.context) if old.context is not None else (old.pattern, new.pattern)


def _compared(old: Tensor | None, new: Tensor | None, where: Tensor) -> float:
    if old is None or new is None or old.shape != new.shape:
        return float("nan")
    if old.ndim == 4:  # [batch, head, query, width]
        return movement(old, new, where[:, None, :, None])
    if old.shape[:2] != where.shape:
        return float("nan")
    return movement(old, new, where.reshape(*where.shape, *[1] * (old.ndim - 2)))


def origin(movements: tuple[LayerMovement, ...], bound: float) -> tuple[int | None, bool]:
    """Where the movement starts.

    Returns:
        The first attention whose result moves although its input does not (None when there is none), and
        whether an input moved before that: then something outside attention mixes too.
    """
    for item in movements:
        if item.hidden > bound:
            return None, True
        if item.context > bound:
            return item.layer, False
    return None, False
