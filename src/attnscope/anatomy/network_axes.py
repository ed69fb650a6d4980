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
from attnscope.anatomy.record import Operation


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


def _head_axes(found: Found, last: Operation, layouts: Layouts) -> list[int]:
    """The axes of the raw scores along which the parameters of the network's last layer change."""
    contraction, raw = contraction_of(last), found.raw
    if contraction is None or raw is None:
        return []
    learned = contraction.rows("a" if is_weight(contraction.a) else "b")
    if last.out is not raw:
        index = layouts.replay(raw, last.out)
        if index is None:
            return []
        learned = learned[coordinates_of(index, last.out.shape)]
    return [
        axis for axis in range(len(raw.shape))
        if raw.shape[axis] > 1 and learned.stride(axis) and bool((learned != learned.narrow(axis, 0, 1)).any())
    ]


def _query_and_head_axes(found: Found, layouts: Layouts) -> tuple[list[int], list[int]]:
    """`(query axes, head axes)` of scores that a small network makes.

    Heads are the columns of its last layer; queries are the rows of the pattern that share their values.
    """
    raw, weighs, pattern = found.raw, found.value_product, found.pattern
    assert raw is not None
    assert weighs is not None
    assert pattern is not None
    head_axes = _head_axes(found, found.terms[0] if found.terms else found.first, layouts)
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
