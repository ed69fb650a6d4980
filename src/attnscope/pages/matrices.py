"""Two axes of places as colours, and small multiples of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attnscope.formats.numbers import typeset
from attnscope.pages.drawing import WIDTH, Array, Drawing, Figure, hit, labels
from attnscope.pages.ordering import by_similarity
from attnscope.pages.scale import Scale
from attnscope.pages.svg import Markup, element, picture, short, words
from attnscope.readings import Reading

MOST_CELLS, MOST_PANELS = 6400, 8

def matrix(drawing: Drawing) -> Figure:
    """Two axes of places as colours; blocks against themselves also in the order of their likeness."""
    reading = drawing.reading
    values, (rows, columns) = reading.values, (reading.labels(dim) for dim in reading.dims)
    if values.size > MOST_CELLS:
        return _shrunk(drawing)
    square = len(rows) > 2 and tuple(map(str, rows)) == tuple(map(str, columns))
    plain, wide = _matrix(drawing, values, None)
    caption = "; ".join(filter(None, (Scale.of(values).words, drawing.ringed)))
    if not square:
        return Figure({"": plain}, caption, wide)
    order = by_similarity(values)
    both = {"model order": plain, "by likeness": _matrix(drawing, values, order)[0]}
    return Figure(both, caption, wide)


def panels(drawing: Drawing) -> Figure | None:
    """Three dims or more: one small matrix for each label of the first dims."""
    reading = drawing.reading
    values = reading.values
    outer = values.shape[:-2]
    inner = values.shape[-2:]
    if inner[0] * inner[1] * min(int(np.prod(outer)), MOST_PANELS) > 4 * MOST_CELLS:
        return None
    scale = Scale.of(values)
    cell = min(max(118 / max(inner), 1.5), 16.0)
    pitch_x, pitch_y = max(cell * inner[1], 60.0) + 18, cell * inner[0] + 30
    per_row = max(1, int(WIDTH // pitch_x))
    parts, shown = [], list(np.ndindex(*outer))[:MOST_PANELS]
    for slot, index in enumerate(shown):
        x, y = 2 + pitch_x * (slot % per_row), 18 + pitch_y * (slot // per_row)
        named = ", ".join(
            f"{dim} {short(reading.labels(dim)[position], 12)}"
            for dim, position in zip(reading.dims, index, strict=False)
        )
        parts.append(words(named, x, y - 5, class_="t"))
        orders = list(range(inner[0])), list(range(inner[1]))
        parts.append(_cells(values[index], *orders, scale, x, y, cell, cell))
    rows = -(-len(shown) // per_row)
    bottom = 18 + pitch_y * rows
    parts.append(_legend(scale, 2, bottom - 4, 240))
    total = int(np.prod(outer))
    axes = f"down: {reading.dims[-2]}, across: {reading.dims[-1]}"
    caption = axes if total <= MOST_PANELS else f"{axes}; the first {MOST_PANELS} of {total}"
    width = min(WIDTH, 4 + pitch_x * min(per_row, len(shown)))
    svg = picture(width, bottom + 30, "".join(parts), label=drawing.label)
    return Figure({"": svg}, "; ".join(filter(None, (caption, scale.words))))


def _matrix(drawing: Drawing, values: Array, order: list[int] | None) -> tuple[Markup, bool]:
    reading = drawing.reading
    n_rows, n_columns = values.shape
    row_order = list(range(n_rows)) if order is None else order
    column_order = list(range(n_columns)) if order is None else order
    row_labels = labels(reading, 0)
    column_labels = labels(reading, 1)
    upright = max(map(len, column_labels), default=1) <= 3
    cell = min(max((WIDTH - 70) / max(n_columns, 1), 9.0), 30.0)
    height = cell if cell >= 14 or n_rows > 30 else min(cell * 1.4, 18.0)
    left = 14 + 6.2 * max(map(len, row_labels), default=1)
    top = 26.0 if upright else 16 + 6.2 * max(map(len, column_labels), default=1)
    scale = Scale.of(values)
    parts = [_cells(values, row_order, column_order, scale, left, top, cell, height)]
    every = max(1, round(13 / height))
    for slot in range(0, n_rows, every):
        middle = top + height * (slot + 0.5) + 3.5
        parts.append(words(row_labels[row_order[slot]], left - 7, middle, anchor="end", class_="t mono"))
    every = max(1, round((9 + 6 * max(map(len, column_labels), default=1) if upright else 13) / cell))
    for slot in range(0, n_columns, every):
        x, label = left + cell * (slot + 0.5), column_labels[column_order[slot]]
        if upright:
            parts.append(words(label, x - 0.75, top - 7, anchor="middle", class_="t mono"))
        else:
            turned = f"rotate(-90 {x + 3:.1f} {top - 7:.1f})"
            parts.append(words(label, x + 3, top - 7, class_="t mono", transform=turned))
    if n_rows * n_columns <= 48 and cell >= 26:
        parts += _numbers(values, row_order, column_order, scale, left, top, cell, height)
    for slot_y, row in enumerate(row_order):
        for first, last in _runs([(row, column) in drawing.suspects for column in column_order]):
            parts.append(element(
                "rect", x=left + cell * first - 1.2, y=top + height * slot_y - 1.2,
                width=cell * (last - first + 1) + 0.9, height=height + 0.9, rx=2.5, class_="ring",
            ))
    axis = f"{reading.dims[1]} →"
    if upright:
        parts.append(words(axis, left + cell * n_columns + 4, top - 7, class_="t dim"))
    width = max(left + cell * n_columns + 8, left + cell * n_columns + (46 if upright else 8))
    parts.append(_legend(scale, left, top + height * n_rows + 14, min(cell * n_columns, 260.0)))
    box = hit(drawing, left, top, cell, height, n_columns, row_order, column_stride=1, row_stride=n_columns,
               column_order=column_order)
    total = top + height * n_rows + 46
    return picture(width, total, "".join(parts), label=drawing.label, **box), width > WIDTH + 20


def _runs(marked: Sequence[bool]) -> list[tuple[int, int]]:
    """First and last of each run of marked slots."""
    found: list[tuple[int, int]] = []
    for slot, mark in enumerate(marked):
        if mark and found and found[-1][1] == slot - 1:
            found[-1] = (found[-1][0], slot)
        elif mark:
            found.append((slot, slot))
    return found


def _shrunk(drawing: Drawing) -> Figure:
    """A matrix of too many cells: each drawn cell is the largest (in size) of a square of them."""
    reading = drawing.reading
    factor = int(np.ceil(np.sqrt(reading.values.size / MOST_CELLS)))
    rows, columns = (range(0, size, factor) for size in reading.values.shape)
    values = np.array([
        [_largest(reading.values[row:row + factor, column:column + factor]) for column in columns]
        for row in rows
    ])
    coords = {
        dim: tuple(reading.labels(dim)[start] for start in starts)
        for dim, starts in zip(reading.dims, (rows, columns), strict=True)
    }
    small = Reading(reading.lens, values, reading.dims, reading.unit, coords)
    svg, wide = _matrix(Drawing(small, -1), values, None)
    caption = f"each cell is the largest of {factor} × {factor}; {Scale.of(values).words}"
    return Figure({"": svg}, caption.strip("; "), wide)


def _largest(values: Array) -> float:
    flat = values[~np.isnan(values)]
    return float(flat[np.abs(flat).argmax()]) if flat.size else float("nan")


def _cells(
    values: Array, rows: Sequence[int], columns: Sequence[int], scale: Scale, left: float, top: float,
    cell: float, height: float,
) -> Markup:
    """One path per colour: a matrix of thousands of cells stays small."""
    gap = 1.5 if min(cell, height) >= 9 else 0.3 if min(cell, height) >= 4 else 0.0
    box = f"h{cell - gap:.3g}v{height - gap:.3g}h-{cell - gap:.3g}z"
    paths: dict[str, list[str]] = {}
    for slot_y, row in enumerate(rows):
        for slot_x, column in enumerate(columns):
            value = float(values[row, column])
            if not np.isnan(value):
                corner = f"M{left + cell * slot_x:.4g} {top + height * slot_y:.4g}"
                paths.setdefault(scale.level(value), []).append(corner + box)
    return "".join(element("path", d="".join(found), class_=level) for level, found in sorted(paths.items()))


def _numbers(
    values: Array, rows: Sequence[int], columns: Sequence[int], scale: Scale, left: float, top: float,
    cell: float, height: float,
) -> list[Markup]:
    said = []
    for slot_y, row in enumerate(rows):
        for slot_x, column in enumerate(columns):
            value = float(values[row, column])
            written = typeset(value, digits=2)
            if np.isfinite(value) and len(written) <= 4:
                level = scale.level(value)
                dark = (level[0] == "q" and int(level[1]) >= 5) or level in ("d0", "d1", "d7", "d8")
                said.append(
                    words(written, left + cell * (slot_x + 0.5) - 0.75, top + height * (slot_y + 0.5) + 3,
                          anchor="middle", class_="t on" if dark else "t off")
                )
    return said


def _legend(scale: Scale, left: float, top: float, width: float) -> Markup:
    """The colours, with the numbers at their ends."""
    letter = "d" if scale.form == "diverging" else "q"
    width = max(width, 90.0)
    step = width / 9
    boxes = "".join(
        element(
            "path", d=f"M{left + step * level:.1f} {top:.1f}h{step:.1f}v7h-{step:.1f}z",
            class_=f"{letter}{level}",
        )
        for level in range(9)
    )
    if scale.low == scale.high:
        return words(f"all {typeset(scale.low)}", left, top + 10, class_="t dim")
    ends = words(typeset(scale.low), left, top + 19, class_="t dim")
    return boxes + ends + words(typeset(scale.high), left + width, top + 19, anchor="end", class_="t dim")
