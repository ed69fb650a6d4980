"""Numbers along a scale (steps, positions, eigenvalues) as lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from attnscope.formats.numbers import typeset
from attnscope.pages.drawing import WIDTH, Array, Drawing, Figure, hit, is_place, labels
from attnscope.pages.scale import LOG, Scale
from attnscope.pages.svg import Markup, element, line, picture, polyline, short, words

MOST_POINTS, MOST_LINES = 400, 60

def curve(drawing: Drawing) -> Figure:
    """One number along a scale: a line, filled when it is a density."""
    values = drawing.reading.values
    return Figure({"": _lines(drawing, values[:, None], [""])}, Scale.of(values).words)


def curves(drawing: Drawing) -> Figure:
    """Several lines along a scale: those that move most have a name and a colour, the rest are grey."""
    reading = drawing.reading
    along = 0 if not is_place(reading, reading.dims[0]) else 1
    values = reading.values if along == 0 else reading.values.T
    named = labels(reading, 1 - along)
    caption = [Scale.of(values).words]
    if values.shape[1] > MOST_LINES:
        caption.append(f"{MOST_LINES} of {values.shape[1]} lines: those that reach furthest")
    drawn = _lines(drawing, values, named, transposed=along == 1)
    return Figure({"": drawn}, "; ".join(filter(None, caption)))


def _lines(drawing: Drawing, values: Array, named: Sequence[str], *, transposed: bool = False) -> Markup:
    """Lines along the numbers of one dim; `values` is [point, series]."""
    reading = drawing.reading
    dim = reading.dims[1 if transposed else 0]
    places = [float(label) for label in reading.labels(dim)]
    kept = _thinned(values)
    scale = Scale.of(values, zero=values.shape[1] == 1 and reading.stderr is None)
    many = values.shape[1] > 1
    left, right, top, bottom = 60.0, 96.0 if many else 16.0, 10.0, 190.0
    span, first, last = WIDTH - left - right, places[0], places[-1]
    across = Scale(min(first, last), max(first, last))

    def x_of(point: int) -> float:
        return left + span * across.at(places[point])

    def y_of(value: float) -> float:
        return bottom - (bottom - top) * scale.at(value)

    parts = []
    for tick in scale.ticks(4):
        parts.append(line(left, y_of(tick), WIDTH - right, y_of(tick), "axis" if tick == 0 else "grid"))
        parts.append(words(typeset(tick), left - 7, y_of(tick) + 3.5, anchor="end", class_="t dim"))
    for tick in across.ticks(5):
        x = left + span * across.at(tick)
        parts.append(words(typeset(tick), x, bottom + 15, anchor="middle", class_="t dim"))
    parts.append(words(f"{dim} →", WIDTH - right, bottom + 30, anchor="end", class_="t dim"))
    spread = _spread(values)
    ranked = np.argsort(-spread, kind="stable")[:MOST_LINES].tolist()
    for rank, series in reversed(list(enumerate(ranked))):
        column = values[:, series]
        points = [(x_of(i), y_of(float(column[i]))) if np.isfinite(column[i]) else None for i in kept]
        colour = f"line s{rank}" if rank < 4 else "line rest"
        if not many:
            colour = "line s0"
            inside = [point for point in points if point is not None]
            if inside and scale.form != LOG:
                ground = f"L{inside[-1][0]:.1f} {y_of(0):.1f}L{inside[0][0]:.1f} {y_of(0):.1f}z"
                parts.append(element("path", d=polyline(points) + ground, class_="area"))
        parts.append(element("path", d=polyline(points), class_=colour))
    if many:
        parts += _end_labels(values, ranked[:4], named, y_of, WIDTH - right + 6)
    # A crosshair over many lines reads none of them well; the table does.
    box = {} if many else hit(
        drawing, left, top, span, bottom - top, len(places), [0], row_stride=0, column_stride=1,
    )
    return picture(WIDTH, bottom + 38, "".join(parts), label=drawing.label, **box)


def _end_labels(
    values: Array, ranked: Sequence[int], named: Sequence[str], y_of: Callable[[float], float], x: float,
) -> list[Markup]:
    """Names at the ends of lines, moved apart where they would touch."""
    ends = []
    for rank, series in enumerate(ranked):
        column = values[:, series]
        finite = column[np.isfinite(column)]
        if finite.size:
            ends.append((y_of(float(finite[-1])), rank, series))
    said, lowest = [], -np.inf
    for y, rank, series in sorted(ends):
        lowest = max(y, lowest + 12)
        said.append(words(short(named[series], 15), x, lowest + 3.5, class_=f"t mono k{rank}"))
    return said


def _spread(values: Array) -> Array:
    """How far each line reaches, from its lowest to its highest finite point."""
    finite = np.isfinite(values)
    high = np.where(finite, values / 2, -np.inf).max(0)
    low = np.where(finite, values / 2, np.inf).min(0)
    reach: Array = np.where(finite.any(0), high - low, 0.0)
    return reach


def _thinned(values: Array) -> list[int]:
    """Points to draw: all, or of each stretch the first, the lowest and the highest."""
    length = values.shape[0]
    if length <= MOST_POINTS:
        return list(range(length))
    level = np.nan_to_num(values.mean(1))
    kept: set[int] = {0, length - 1}
    for stretch in np.array_split(np.arange(length), MOST_POINTS // 3):
        lowest, highest = stretch[level[stretch].argmin()], stretch[level[stretch].argmax()]
        kept |= {int(stretch[0]), int(lowest), int(highest)}
    return sorted(kept)
