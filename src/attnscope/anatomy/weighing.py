"""Values and context in canonical layout, read off the product of pattern and values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attnscope.anatomy.axes import ScoreAxes
from attnscope.anatomy.canonical import CanonicalLayout
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
    product: Contraction, side: str, pattern: Value, axes: ScoreAxes, layouts: Layouts
) -> Weighing | None:
    """Where each head's values and context are; equal layers are read off once.

    Args:
        product: the contraction of pattern and values.
        side: which of its factors is the pattern.
        pattern: the value that weighs.
        axes: the canonical layout of the raw scores.
        layouts: index replay.

    Returns:
        None when the pattern that weighs the values does not cover the scores.
    """
    number = None if layouts.unmoved(pattern, axes.raw) else layouts.identical(pattern, axes.raw)
    key: Any = (
        "weighing", id(axes.layout), number, side, product.form, product.a.shape, product.b.shape, product.repeats,
        product.summed, product.common,
    )
    if key not in layouts.known:

        def raw_places(flat: Tensor) -> Tensor | None:
            return layouts.traced(pattern, axes.raw, flat)

        layouts.known[key] = (_weighing_of(product, side, raw_places, axes.layout), axes.layout)
    found: Weighing | None = layouts.known[key][0]
    return found


def kernel_weighing(value: Value, context: Value, repeats: int, layout: CanonicalLayout) -> Weighing:
    """The same for a fused kernel, whose pattern is never made: its layout is fixed."""
    n_query, width = context.shape[-2:]
    n_key = value.shape[-2]
    made = torch.arange(context.numel).reshape(-1, n_query, width)
    values = torch.arange(value.numel).reshape(value.shape)
    if repeats > 1:
        values = values.repeat_interleave(repeats, dim=-3)
    values = values.expand(*context.shape[:-2], n_key, values.shape[-1]).reshape(-1, n_key, values.shape[-1])
    return Weighing(
        values[layout.matrices], made[layout.matrices.unsqueeze(-1), layout.rows.unsqueeze(0)]
    )


def _weighing_of(
    product: Contraction, side: str, raw_places: Callable[[Tensor], Tensor | None], layout: CanonicalLayout
) -> Weighing | None:
    patterns, values = product.cube(side), product.cube("b" if side == "a" else "a")
    rank = patterns.dim() - 1
    width = _width_axes(product, side, patterns, values)
    rest = [axis for axis in range(rank) if axis not in width]
    order = (*rest, rank, *width)
    patterns, values = patterns.permute(order), values.permute(order)
    for _ in width:
        patterns = patterns.select(-1, 0)
    n_batch, n_head, n_query, n_key = layout.shape
    # One place along the sum tells which example, head and query every row of the context belongs to.
    first = raw_places(patterns[..., 0].reshape(-1))
    if first is None or bool((first < 0).any()):
        return None
    batch, head, query, _ = layout.places(first)
    of_query = _located((batch * n_head + head) * n_query + query, n_batch * n_head * n_query)
    if of_query is None:
        return None
    # The rows of query 0 tell which place along the sum is which key.
    shape = patterns.shape[:-1]
    starts = of_query.reshape(n_batch, n_head, n_query)[..., 0].reshape(-1)
    line = patterns[coordinates_of(starts, shape)] if shape else patterns.unsqueeze(0)
    lines = raw_places(line.reshape(-1))
    if lines is None or bool((lines < 0).any()):
        return None
    batch, head, query, key = (item.reshape(line.shape) for item in layout.places(lines))
    if line.shape[1] != n_key or bool((query != 0).any()) or bool((key.sort(-1).values != torch.arange(n_key)).any()):
        return None
    along = key.argsort(-1).reshape(-1)
    rows = coordinates_of(starts.repeat_interleave(n_key), shape) if shape else ()
    value_rows = values[(*rows, along)]
    made = torch.arange(product.out.numel).reshape(_shape_without_keepdim(product, rank)).permute(*rest, *width)
    context_rows = made[coordinates_of(of_query, shape)] if rest else made.unsqueeze(0)
    return Weighing(
        value_rows.reshape(n_batch, n_head, n_key, -1), context_rows.reshape(n_batch, n_head, n_query, -1)
    )


def _width_axes(product: Contraction, side: str, patterns: Tensor, values: Tensor) -> list[int]:
    """The axes of the context along which only the values vary."""
    rank = patterns.dim() - 1
    width = [
        axis for axis in range(rank)
        if patterns.stride(axis) == 0 and values.stride(axis) != 0 and values.shape[axis] > 1
    ]
    if not width and product.form != "product" and rank >= 2:
        width = [rank - 1 if side == "a" else rank - 2]
    return width


def _shape_without_keepdim(product: Contraction, rank: int) -> tuple[int, ...]:
    shape = product.out.shape
    if product.form == "product" and len(shape) != rank:
        return tuple(size for axis, size in enumerate(product.common) if axis not in product.summed)
    return shape


def _located(target: Tensor, size: int) -> Tensor | None:
    """Target -> its position; None when some target has none."""
    location = torch.full((size,), -1)
    location[target] = torch.arange(len(target))
    return None if bool((location < 0).any()) else location
