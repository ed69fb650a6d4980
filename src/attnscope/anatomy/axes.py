"""Which axis of a score matrix is the example, the head, the query and the key, in the model's own layout."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attnscope.anatomy.canonical import CanonicalLayout
from attnscope.anatomy.contraction import Contraction
from attnscope.anatomy.examples import ExampleAxes
from attnscope.anatomy.find import Found
from attnscope.anatomy.indexing import coordinates_of
from attnscope.anatomy.layout import Layouts
from attnscope.anatomy.paths import Path, path_back
from attnscope.anatomy.projections import Projection, projection_of
from attnscope.anatomy.record import Value
from attnscope.anatomy.rows import Provenance


@dataclass(eq=False)
class Side:
    """The query's, key's or value's way into its product.

    Attributes:
        operand: what enters the product.
        path: from the operand back to its origin.
        projection: the parameter product at the origin, if any.
        index: for every element of the operand, the flat index of its origin's element.
    """

    operand: Value
    path: Path
    projection: Projection | None
    index: Tensor | None

    def layout(self, layouts: Layouts) -> Any:
        """Equal for operands that are laid out and projected alike."""
        weight = self.projection.weight if self.projection is not None else None
        return (
            layouts.identical(self.operand, self.path.origin),
            None if weight is None else (weight.parameter.shape, weight.layout, tuple(weight.index.shape)),
        )

    def first_known(self, rows: Tensor) -> int:
        """The first place along rows of the operand whose element comes from the origin (not from a join)."""
        if self.index is None:
            return 0
        known = self.index.reshape(-1)[rows.reshape(-1, rows.shape[-1])[0]] >= 0
        return int(known.int().argmax())

    def features(self, elements: Tensor) -> Tensor | None:
        """A number for the feature of each of some elements of the operand: equal features, equal numbers."""
        if self.index is None:
            return None
        origin = self.path.origin
        places = self.index.reshape(-1)[elements]
        if self.projection is not None and self.projection.weight is not None:
            codes = self.projection.weight.index.expand(origin.shape)
            return codes[coordinates_of(places, origin.shape)]
        return places.clamp(min=0) % origin.shape[-1] if origin.tensor.dim() else None

    def rows(self, elements: Tensor, provenance: Provenance) -> Tensor | None:
        """The batch row of each of some elements of the operand, or None when it cannot be followed."""
        known = provenance.rows(self.path.origin)
        if known is None or self.index is None:
            return None
        places = self.index.reshape(-1)[elements].clamp(min=0)
        return known.index.expand(self.path.origin.shape)[coordinates_of(places, self.path.origin.shape)]


def side_of(operand: Value, layouts: Layouts, *, through_nonlinear: bool = True) -> Side:
    """The way of an operand, followed back."""
    path = path_back(operand, through_nonlinear=through_nonlinear)
    return Side(operand, path, projection_of(path, layouts), layouts.replay(operand, path.origin))


@dataclass(eq=False)
class ScoreAxes:
    """The canonical layout [batch, head, query, key] of one attention's scores.

    Attributes:
        raw: the value whose elements are numbered: the product's output.
        layout: how its axes become batch, head, query and key.
        product: the score product; None for additive scores.
        query_side: which factor of it the queries are.
        query_rows, key_rows: [batch, head, query, width] and [batch, head, key, width] -> flat index in the
            query's (key's) operand; None for additive scores.
        mixed: see `Attention.head_layout`.
    """

    raw: Value
    layout: CanonicalLayout
    product: Contraction | None = None
    query_side: str = "a"
    n_key_heads: int = 1
    mixed: str = "ok"
    query_rows: Tensor | None = None
    key_rows: Tensor | None = None
    gathered: dict[int, Tensor | None] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Batch, heads, queries, keys."""
        return self.layout.shape

    def canonical(self, tensor: Tensor, value: Value, layouts: Layouts) -> Tensor | None:
        """A tensor laid out like `value` (which rearranges the scores) in canonical layout, or None."""
        number = layouts.identical(value, self.raw)
        if number is None:
            return None
        if layouts.unmoved(value, self.raw):
            return self.layout.read(tensor)
        if number not in self.gathered:
            self.gathered[number] = self._gather(layouts.replay(value, self.raw))
        index = self.gathered[number]
        return None if index is None else tensor.expand(value.shape).reshape(-1)[index]

    def _gather(self, index: Tensor | None) -> Tensor | None:
        """[batch, head, query, key] -> flat index in a value, from its replay."""
        if index is None:
            return None
        inverse = torch.full((self.raw.numel,), -1)
        flat = index.reshape(-1)
        known = flat >= 0
        inverse[flat[known]] = torch.arange(len(flat))[known]
        found = inverse[self.layout.elements()]
        return None if bool((found < 0).any()) else found


def _plain(contraction: Contraction) -> bool:
    return contraction.form != "product" and contraction.a.tensor.dim() > 1 and contraction.b.tensor.dim() > 1


def key_places(found: Found, layouts: Layouts) -> Tensor | None:
    """Flat indices in the raw scores of the elements that one weighted sum runs over."""
    assert found.raw is not None
    assert found.value_product is not None
    assert found.pattern is not None
    return layouts.traced(found.pattern, found.raw, found.value_product.along(found.pattern_side))


def key_axes_of(raw: Value, places: Tensor | None) -> list[int]:
    """The axes of the raw scores that one weighted sum runs along."""
    if places is not None and len(places) > 1:
        coordinates = coordinates_of(places, raw.shape)
        varying = [axis for axis, values in enumerate(coordinates) if bool((values != values[0]).any())]
        if varying:
            return varying
    return [len(raw.shape) - 1]


def score_axes(
    raw: Value, product: Contraction, places: Tensor | None, sides: Mapping[str, Side], layouts: Layouts
) -> tuple[ScoreAxes, dict[str, Side]]:
    """Finds the axes of scores that are a product of queries and keys.

    Args:
        raw: the raw scores.
        product: the contraction that made them.
        places: elements of the raw scores that one weighted sum runs over (see `key_places`).
        sides: `a` and `b` of the product.
        layouts: index replay; it remembers the axes of equal layers.

    Returns:
        the axes, and the sides as `query` and `key`.
    """
    key_axes = key_axes_of(raw, places)
    key: Any = (
        "axes", raw.shape, tuple(key_axes), product.form, product.repeats, product.summed, product.common,
        product.a.shape, product.b.shape, sides["a"].layout(layouts), sides["b"].layout(layouts),
    )
    if key not in layouts.known:
        layouts.known[key] = _score_axes(raw, product, key_axes, sides)
    axes = copy(layouts.known[key])
    axes.raw, axes.product = raw, product
    key_side = "b" if axes.query_side == "a" else "a"
    return axes, {"query": sides[axes.query_side], "key": sides[key_side]}


def _score_axes(
    raw: Value, product: Contraction, key_axes: list[int], sides: Mapping[str, Side]
) -> ScoreAxes:
    rank = len(raw.shape)
    query_side = "a"
    if _plain(product):
        last = {rank - 2: "a", rank - 1: "b"}
        key_axis = next((axis for axis in key_axes if axis in last), rank - 1)
        key_axes, query_axes = [key_axis], [2 * rank - 3 - key_axis]
        query_side = last[query_axes[0]]
    else:
        rows = {side: product.rows(side) for side in ("a", "b")}
        varies = {
            side: {axis for axis in range(rank) if rows[side].stride(axis) and raw.shape[axis] > 1} for side in rows
        }
        query_side = "b" if set(key_axes) & (varies["a"] - varies["b"]) else "a"
        key_side = "b" if query_side == "a" else "a"
        query_axes = sorted(varies[query_side] - varies[key_side] - set(key_axes))
    key_side = "b" if query_side == "a" else "a"
    named = {"query": sides[query_side], "key": sides[key_side]}
    batch_axes = [axis for axis in range(rank) if axis not in query_axes and axis not in key_axes]
    axes = _split_heads(raw, product, named, query_side, (batch_axes, query_axes, key_axes))
    return axes


def _split_heads(
    raw: Value, product: Contraction, named: dict[str, Side], query_side: str, axes: tuple[list[int], ...]
) -> ScoreAxes:
    """Tells heads from examples by the features that each row of a factor holds."""
    batch_axes, query_axes, key_axes = axes
    queries, keys = _factor_rows(product, query_side, batch_axes, query_axes, key_axes)
    n_all, n_query, n_key = len(queries), queries.shape[1], keys.shape[1]
    query_codes = named["query"].features(queries[..., named["query"].first_known(queries)])
    first_key = named["key"].first_known(keys)
    key_codes = named["key"].features(keys[..., first_key])
    rows, mixed = torch.arange(n_query).unsqueeze(0), "ok"
    if query_codes is not None and key_codes is not None:
        query_varies = n_query > 1 and bool((query_codes != query_codes[:, :1]).any())
        key_varies = n_key > 1 and bool((key_codes != key_codes[:, :1]).any())
        if query_varies and key_varies:
            mixed, query_codes, key_codes = "positions mixed", None, None
        elif query_varies:  # one key head and several query heads in the rows of one product
            unique, where = torch.unique(query_codes[0], return_inverse=True)
            if n_query % len(unique) == 0:
                rows = torch.stack([(where == head).nonzero()[:, 0] for head in range(len(unique))])
    codes = query_codes[:, 0] if query_codes is not None else None
    if codes is not None and len(torch.unique(codes)) == 1 and key_codes is not None:
        codes = key_codes[:, 0]
    by_head = _by_head(n_all, codes, raw.shape, batch_axes)  # [head, batch]
    matrices = by_head.T.unsqueeze(-1).expand(-1, -1, len(rows)).reshape(by_head.shape[1], -1)  # [batch, head]
    rows = rows.repeat(len(by_head), 1)  # [head, query]
    layout = CanonicalLayout(raw.shape, tuple(batch_axes), tuple(query_axes), tuple(key_axes), matrices, rows)
    key_rows = keys[matrices]
    first = named["key"].features(key_rows[0, :, 0, first_key])
    return ScoreAxes(
        raw, layout, product, query_side, len(torch.unique(first)) if first is not None else layout.shape[1], mixed,
        queries[matrices.unsqueeze(-1), rows.unsqueeze(0)], key_rows,
    )


def _factor_rows(
    product: Contraction, query_side: str, batch_axes: list[int], query_axes: list[int], key_axes: list[int]
) -> tuple[Tensor, Tensor]:
    """[matrix, row, width] of the query's factor and [matrix, column, width] of the key's: flat indices in them."""
    rank = len(batch_axes) + len(query_axes) + len(key_axes)
    order = (*batch_axes, *query_axes, *key_axes, rank)
    queries = product.cube(query_side).permute(order)
    for _ in key_axes:
        queries = queries.select(-2, 0)
    keys = product.cube("b" if query_side == "a" else "a").permute(order)
    for _ in query_axes:
        keys = keys.select(len(batch_axes), 0)
    n_all = math.prod(queries.shape[: len(batch_axes)])
    width = queries.shape[-1]
    return queries.reshape(n_all, -1, width), keys.reshape(n_all, -1, width)


def _by_head(n_all: int, codes: Tensor | None, shape: tuple[int, ...], batch_axes: list[int]) -> Tensor:
    """[head, batch] -> number of the score matrix."""
    everything = torch.arange(n_all)
    if codes is None:
        if len(batch_axes) == 2:
            return everything.reshape(shape[batch_axes[0]], shape[batch_axes[1]]).T
        return everything.unsqueeze(0)
    order: dict[int, list[int]] = {}
    for number, code in enumerate(codes.tolist()):
        order.setdefault(code, []).append(number)
    groups = [order[code] for code in sorted(order)]
    if len({len(group) for group in groups}) != 1:
        return everything.unsqueeze(0)
    return torch.tensor(groups)


def examples_mixed(
    axes: ScoreAxes, named: Mapping[str, Side | None], provenance: Provenance, examples: ExampleAxes
) -> bool:
    """Whether one score matrix pairs rows of different examples."""
    for name, elements in (("query", axes.query_rows), ("key", axes.key_rows)):
        side = named[name]
        if side is None:
            continue
        known = provenance.rows(side.path.origin)
        found = side.rows(elements[..., 0], provenance) if elements is not None else None
        if found is None or known is None:
            continue
        example = examples.example(known.root, found)
        if example is None:
            continue
        if bool(((example != example.amax(-1, keepdim=True)) & (example >= 0)).any()):
            return True
    return False
