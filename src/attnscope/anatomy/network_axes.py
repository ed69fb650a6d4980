"""Which axis is which in scores that a small network makes: one column of its last layer is one head."""

from __future__ import annotations

import math

import torch

from attnscope.anatomy.axes import ScoreAxes, key_axes_of, key_places
from attnscope.anatomy.canonical import CanonicalLayout
from attnscope.anatomy.contraction import contraction_of
from attnscope.anatomy.find import Found
from attnscope.anatomy.indexing import coordinates_of
from attnscope.anatomy.layout import Layouts
from attnscope.anatomy.paths import is_weight


def network_axes(found: Found, layouts: Layouts) -> ScoreAxes:
    """The canonical layout of additive, gated and linear scores."""
    raw = found.raw
    assert raw is not None
    key_axes = key_axes_of(raw, key_places(found, layouts))
    query_axes, head_axes = _query_and_head_axes(found, layouts)
    query_axes = [axis for axis in query_axes if axis not in key_axes]
    batch_axes = [axis for axis in range(len(raw.shape)) if axis not in (*query_axes, *key_axes)]
    heads = [place for place, axis in enumerate(batch_axes) if axis in head_axes]
    rest = [place for place in range(len(batch_axes)) if place not in heads]
    sizes = [raw.shape[axis] for axis in batch_axes]
    n_heads = math.prod(sizes[place] for place in heads)
    matrices = torch.arange(math.prod(sizes)).reshape(sizes).permute(*rest, *heads).reshape(-1, n_heads)
    n_queries = math.prod(raw.shape[axis] for axis in query_axes)
    rows = torch.arange(n_queries).expand(n_heads, n_queries)
    layout = CanonicalLayout(raw.shape, tuple(batch_axes), tuple(query_axes), tuple(key_axes), matrices, rows)
    return ScoreAxes(raw, layout)


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
    patterns, values = weighs.cube(found.pattern_side), weighs.cube("b" if found.pattern_side == "a" else "a")
    query_axes: list[int] = []
    for axis in range(patterns.dim() - 1):
        if patterns.stride(axis) and not values.stride(axis) and patterns.shape[axis] > 1:
            line = patterns.movedim(axis, -1)[(0,) * (patterns.dim() - 1)]
            places = layouts.traced(pattern, raw, line)
            if places is None:
                return [], head_axes
            coordinates = coordinates_of(places, raw.shape)
            query_axes += [place for place, item in enumerate(coordinates) if bool((item != item[0]).any())]
    return [axis for axis in query_axes if axis not in head_axes], head_axes
