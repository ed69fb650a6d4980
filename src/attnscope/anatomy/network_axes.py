"""Which axis is which in scores that a small network makes: one column of its last layer is one head."""

from __future__ import annotations

import math

from torch import Tensor

from attnscope.anatomy.axes import ScoreAxes, arranged, key_axes_of, key_places
from attnscope.anatomy.contraction import contraction_of
from attnscope.anatomy.find import Found
from attnscope.anatomy.indexing import coordinates_of
from attnscope.anatomy.layout import Layouts
from attnscope.anatomy.paths import is_weight
from attnscope.anatomy.record import Value


def network_axes(found: Found, layouts: Layouts) -> ScoreAxes:
    """The canonical layout of additive, gated and linear scores."""
    raw = found.raw
    assert raw is not None
    key_axes = key_axes_of(raw, key_places(found, layouts))
    query_axes, head_axes = _query_and_head_axes(found, layouts)
    query_axes = [axis for axis in query_axes if axis not in key_axes]
    axes = arranged(raw, query_axes, key_axes)
    head_axes = [axis for axis in head_axes if axis not in (*key_axes, *query_axes)]
    axes.index = _with_heads(axes.index, raw, head_axes, query_axes, key_axes)
    return axes


def _query_and_head_axes(found: Found, layouts: Layouts) -> tuple[list[int], list[int]]:
    """`(query axes, head axes)` of scores that a small network makes.

    Heads are the columns of its last layer; queries are the rows of the pattern that share their values.
    """
    raw, weighs, pattern = found.raw, found.value_product, found.pattern
    assert raw is not None
    assert weighs is not None
    assert pattern is not None
    rank = len(raw.shape)
    contraction = contraction_of(found.first)
    head_axes = [rank - 1] if raw.shape[-1] > 1 and contraction is not None else []
    if contraction is not None:
        learned = contraction.rows("a" if is_weight(contraction.a) else "b")
        head_axes = [axis for axis in range(rank) if learned.stride(axis) and raw.shape[axis] > 1]
    index = layouts.replay(pattern, raw)
    if index is None:
        return [], head_axes
    patterns, values = weighs.cube(found.pattern_side), weighs.cube("b" if found.pattern_side == "a" else "a")
    query_axes: list[int] = []
    for axis in range(patterns.dim() - 1):
        if patterns.stride(axis) and not values.stride(axis) and patterns.shape[axis] > 1:
            line = patterns.movedim(axis, -1)[(0,) * (patterns.dim() - 1)]
            coordinates = coordinates_of(index.reshape(-1)[line], raw.shape)
            query_axes += [place for place, item in enumerate(coordinates) if bool((item != item[0]).any())]
    return [axis for axis in query_axes if axis not in head_axes], head_axes


def _with_heads(
    index: Tensor, raw: Value, head_axes: list[int], query_axes: list[int], key_axes: list[int]
) -> Tensor:
    """[batch, 1, query, key] -> [batch, head, query, key]: heads are the columns of the scoring network."""
    if not head_axes:
        return index
    batch_axes = [axis for axis in range(len(raw.shape)) if axis not in (*query_axes, *key_axes)]
    sizes = [raw.shape[axis] for axis in batch_axes]
    rest = [place for place, axis in enumerate(batch_axes) if axis not in head_axes]
    heads = [place for place, axis in enumerate(batch_axes) if axis in head_axes]
    cut = len(batch_axes)
    split = index.reshape(*sizes, *index.shape[2:]).permute(*rest, *heads, cut, cut + 1)
    n_heads = math.prod(raw.shape[axis] for axis in head_axes)
    return split.reshape(-1, n_heads, *index.shape[2:])
