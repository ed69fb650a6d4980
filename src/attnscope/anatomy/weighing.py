"""Values and context in canonical layout, read off the product of pattern and values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attnscope.anatomy.axes import ScoreAxes
from attnscope.anatomy.contraction import Contraction
from attnscope.anatomy.indexing import coordinates_of
from attnscope.anatomy.layout import Layouts
from attnscope.anatomy.record import Value


@dataclass(frozen=True, eq=False)
class Weighing:
    """Values and context in canonical layout.

    Attributes:
        value_rows: [batch, head, key, width] -> flat index in the value operand.
        context_rows: [batch, head, query, width] -> flat index in the context.
    """

    value_rows: Tensor
    context_rows: Tensor


def weighing_of(
    product: Contraction, side: str, pattern: Value | None, axes: ScoreAxes, layouts: Layouts
) -> Weighing | None:
    """Where each head's values and context are; equal layers are read off once.

    Args:
        product: the contraction of pattern and values.
        side: which of its factors is the pattern.
        pattern: the value that weighs; None when it is the raw scores themselves.
        axes: the canonical layout of the raw scores.
        layouts: index replay.

    Returns:
        None when the pattern that weighs the values does not cover the scores.
    """
    number = None if pattern is None else layouts.identical(pattern, axes.raw)
    key: Any = (
        "weighing", id(axes.index), number, side, product.form, product.a.shape, product.b.shape, product.repeats,
        product.summed, product.common,
    )
    if key not in layouts.known:
        index = None if pattern is None else layouts.replay(pattern, axes.raw)
        layouts.known[key] = (
            None if pattern is not None and index is None else _weighing_of(product, side, index, axes), axes.index
        )
    found: Weighing | None = layouts.known[key][0]
    return found


def _weighing_of(product: Contraction, side: str, pattern_index: Tensor | None, axes: ScoreAxes) -> Weighing | None:
    patterns, values = product.cube(side), product.cube("b" if side == "a" else "a")
    rank = patterns.dim() - 1
    width = [
        axis for axis in range(rank)
        if patterns.stride(axis) == 0 and values.stride(axis) != 0 and values.shape[axis] > 1
    ]
    if not width and product.form != "product" and rank >= 2:
        width = [rank - 1 if side == "a" else rank - 2]
    rest = [axis for axis in range(rank) if axis not in width]
    order = (*rest, rank, *width)
    patterns, values = patterns.permute(order), values.permute(order)
    for _ in width:
        patterns = patterns.select(-1, 0)
    flat = patterns if pattern_index is None else pattern_index.reshape(-1)[patterns]
    place = torch.where(flat < 0, -1, axes.place[flat.clamp(min=0)])
    n_batch, n_head, n_query, n_key = axes.index.shape
    batch, head, query, key = coordinates_of(place, axes.index.shape)
    of_key = _located((batch * n_head + head) * n_key + key, (place >= 0) & (query == 0), n_batch * n_head * n_key)
    place, batch, head, query = place[..., 0], batch[..., 0], head[..., 0], query[..., 0]
    of_query = _located((batch * n_head + head) * n_query + query, place >= 0, n_batch * n_head * n_query)
    if of_key is None or of_query is None:
        return None
    made = torch.arange(product.out.numel).reshape(_shape_without_keepdim(product, rank)).permute(*rest, *width)
    value_rows = values[coordinates_of(of_key, patterns.shape)]
    context_rows = made[coordinates_of(of_query, place.shape)] if rest else made.unsqueeze(0)
    return Weighing(
        value_rows.reshape(n_batch, n_head, n_key, -1), context_rows.reshape(n_batch, n_head, n_query, -1)
    )


def _shape_without_keepdim(product: Contraction, rank: int) -> tuple[int, ...]:
    shape = product.out.shape
    if product.form == "product" and len(shape) != rank:
        return tuple(size for axis, size in enumerate(product.common) if axis not in product.summed)
    return shape


def _located(target: Tensor, known: Tensor, size: int) -> Tensor | None:
    """Target -> position among the known elements; None when some target has none."""
    location = torch.full((size,), -1)
    positions = torch.arange(target.numel()).reshape(target.shape)
    location[target[known]] = positions[known]
    return None if bool((location < 0).any()) else location
