"""Every block's top eigenvalue along the checkpoints, against the limit above which a step overshoots."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from attnscope.formats.curvature_table import Blocks, block_label
from attnscope.formats.numbers import typeset
from attnscope.pages.drawing import Array
from attnscope.pages.scale import LOG, Scale
from attnscope.pages.svg import Markup, element, line, picture, polyline, short, tooltip, words
from attnscope.readings import Reading

NAMED, MOST_NAMES = 4, 24
LEFT, TOP, BOTTOM, SPAN, WIDTH = 62.0, 14.0, 260.0, 460.0, 660.0


def eigenvalues_over_checkpoints(readings: Mapping[str, Reading], blocks: Blocks) -> Markup:
    """A line per block, on a logarithmic scale; the four sharpest have a name and a colour. Limits are dashed."""
    reading = readings["top_eigenvalue"]
    values = np.where(reading.values > 0, reading.values, np.nan)
    limits = _limits(readings.get("stability_limit"))
    places = _places(reading)
    across = Scale(places[0], max(places[-1], places[0] + 1))
    up = _logarithmic(np.concatenate([values.ravel(), np.array(limits, dtype=np.float64)]))

    def at(place: float, value: float) -> tuple[float, float]:
        return LEFT + SPAN * across.at(place), BOTTOM - (BOTTOM - TOP) * up.at(value)

    parts = []
    for tick in up.ticks(5):
        y = at(places[0], tick)[1]
        parts.append(line(LEFT, y, LEFT + SPAN, y, "grid"))
        parts.append(words(typeset(tick), LEFT - 7, y + 3.5, anchor="end", class_="t dim"))
    height = BOTTOM + _axis(parts, reading, places, at)
    named = [short(block_label(str(name), blocks), 20) for name in reading.labels("block")]
    reach = np.nan_to_num(values, nan=0.0).max(0) if len(values) else np.zeros(len(named))
    ranked = np.argsort(-reach, kind="stable").tolist()
    for rank, series in reversed(list(enumerate(ranked))):
        points = [
            at(place, float(value)) if np.isfinite(value) else None
            for place, value in zip(places, values[:, series], strict=True)
        ]
        colour = f"line s{rank}" if rank < NAMED else "line rest"
        parts.append(element("path", tooltip(named[series]), d=polyline(points), class_=colour))
        parts += [
            element("circle", tooltip(f"{named[series]}: {typeset(float(value))}"), cx=point[0], cy=point[1], r=2.6,
                    class_=f"k{rank}")
            for point, value in zip(points, values[:, series], strict=True) if point and rank < NAMED
        ]
    parts += _names(values, ranked[:NAMED], named, lambda value: at(places[0], value)[1])
    for limit in limits:
        y = at(places[0], limit)[1]
        parts.append(line(LEFT, y, LEFT + SPAN, y, "limit"))
        parts.append(words(f"stability limit {typeset(limit)}", LEFT + 4, y - 5))
    return picture(WIDTH, height, "".join(parts), label="top eigenvalue of every block over checkpoints")


def _places(reading: Reading) -> list[float]:
    """Where the checkpoints stand: at the number in their names when there is one, else side by side."""
    steps = reading.facts.get("steps")
    return [float(step) for step in steps] if steps else [float(i) for i in range(len(reading.values))]


def _axis(
    parts: list[Markup], reading: Reading, places: Sequence[float], at: Callable[[float, float], tuple[float, float]]
) -> float:
    """Ticks below the figure, and how much room they take."""
    if reading.facts.get("steps"):
        across = Scale(places[0], max(places[-1], places[0] + 1))
        for tick in across.ticks(6):
            parts.append(words(typeset(tick), at(tick, 1.0)[0], BOTTOM + 16, anchor="middle", class_="t dim"))
        parts.append(words("number in the checkpoint's name →", LEFT + SPAN, BOTTOM + 33, anchor="end", class_="t dim"))
        return 42.0
    names = [short(name, 18) for name in reading.labels("checkpoint")]
    every = max(1, -(-len(names) // MOST_NAMES))
    for place, name in list(zip(places, names, strict=True))[::every]:
        x, y = at(place, 1.0)[0], BOTTOM + 14
        parts.append(words(name, x, y, anchor="end", class_="t mono", transform=f"rotate(-45 {x:.1f} {y:.1f})"))
    return 26.0 + 4.6 * max(map(len, names), default=1)


def _limits(reading: Reading | None) -> list[float]:
    """The different limits, when there are few: parameter groups and learning rates that fall make several."""
    if reading is None:
        return []
    different = sorted({float(f"{value:.6g}") for value in reading.values[np.isfinite(reading.values)].tolist()})
    return different if len(different) <= 3 else [different[0]]


def _logarithmic(values: Array) -> Scale:
    known = values[np.isfinite(values) & (values > 0)]
    if not known.size:
        return Scale(0.1, 10.0, LOG)
    return Scale(float(known.min()) / 1.5, float(known.max()) * 2, LOG)


def _names(
    values: Array, ranked: Sequence[int], named: Sequence[str], y_of: Callable[[float], float]
) -> list[Markup]:
    """Names at the ends of the coloured lines, moved apart where they would touch."""
    ends = []
    for rank, series in enumerate(ranked):
        finite = values[:, series][np.isfinite(values[:, series])]
        if finite.size:
            ends.append((y_of(float(finite[-1])), rank, series))
    said, lowest = [], -np.inf
    for y, rank, series in sorted(ends):
        lowest = max(y, lowest + 13)
        said.append(words(named[series], LEFT + SPAN + 8, lowest + 3.5, class_=f"t mono k{rank}"))
    return said
