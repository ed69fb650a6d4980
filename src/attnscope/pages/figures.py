"""Readings to figures: the dims of a reading choose its figure, so a new lens needs no new plot."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from attnscope.formats.numbers import typeset
from attnscope.pages.drawing import WIDTH, Array, Drawing, Figure, everywhere, hit, is_place, summary
from attnscope.pages.lines import curve, curves
from attnscope.pages.matrices import matrix, panels
from attnscope.pages.scale import LOG, Scale
from attnscope.pages.svg import Markup, element, line, picture, short, words
from attnscope.readings import Reading

MOST_DOTS, MOST_EQUAL = 48, 12

def figure(drawing: Drawing) -> Figure | None:
    """The figure of a reading, or None when there is nothing to see (no numbers, one, or all the same)."""
    reading = drawing.reading
    if not reading.ok and not np.isfinite(reading.values).any():
        return None
    if reading.values.size < 2 or everywhere(reading) is not None:
        return None
    kinds = tuple("place" if is_place(reading, dim) else "scale" for dim in reading.dims)
    chosen = FIGURES.get(kinds)
    if chosen is not None:
        return chosen(drawing)
    return panels(drawing) if len(kinds) > 2 else None


def dots(drawing: Drawing) -> Figure:
    """One number per place: a dot on a line, with its standard error when it has one."""
    reading = drawing.reading
    values = reading.values
    rows, left_out = _worth_drawing(values)
    labels = reading.labels(reading.dims[0])
    prefix = "" if "block" in reading.dims[0] else f"{reading.dims[0]} "
    shown = [short(f"{prefix}{labels[row]}", 30) for row in rows]
    scale = Scale.of(values, zero=True)
    left, right, top = 12 + 6.1 * max(map(len, shown), default=1), 74.0, 8.0
    pitch = 17.0 if len(rows) <= 16 else 13.5
    span = max(WIDTH - left - right, 120.0)
    bottom = top + pitch * len(rows)
    parts = [_x_axis(scale, left, span, top, bottom)]
    origin = left + span * scale.at(0.0 if scale.form != LOG else scale.low)
    for slot, row in enumerate(rows):
        y, value = top + pitch * (slot + 0.5), float(values[row])
        parts.append(words(shown[slot], left - 8, y + 3.5, anchor="end", class_="t mono"))
        suspect = " suspect" if (row,) in drawing.suspects else ""
        if np.isfinite(value):
            x = left + span * scale.at(value)
            if reading.stderr is not None and np.isfinite(reading.stderr[row]):
                error = float(reading.stderr[row])
                parts.append(line(left + span * scale.at(value - 2 * error), y,
                                  left + span * scale.at(value + 2 * error), y, "whisker"))
            elif scale.form != LOG:
                parts.append(line(origin, y, x, y, "stem" + suspect))
            parts.append(element("circle", cx=x, cy=y, r=4.0 if suspect else 3.2, class_="dot" + suspect))
        parts.append(words(typeset(value), WIDTH - 4, y + 3.5, anchor="end", class_="t num"))
    box = hit(drawing, left, top, span, pitch, 1, list(rows), column_stride=0, row_stride=1)
    bars = "bars are two standard errors" if reading.stderr is not None else ""
    height = bottom + 20
    svg = picture(WIDTH, height, "".join(parts), label=drawing.label, **box)
    return Figure({"": svg}, "; ".join(filter(None, (left_out, scale.words, bars))))


def _worth_drawing(values: Array) -> tuple[list[int], str]:
    """The rows to draw, and what is left out: those that all stand at one value, or the smallest of many."""
    present = values[~np.isnan(values)]
    if len(values) > MOST_EQUAL and present.size:
        common, counts = np.unique(present, return_counts=True)
        usual = float(common[counts.argmax()])
        odd = [row for row in range(len(values)) if values[row] != usual and not np.isnan(values[row])]
        if counts.max() >= present.size / 2 and len(odd) <= MOST_DOTS:
            return odd, f"the other {int(counts.max())} are {typeset(usual)}"
    if len(values) <= MOST_DOTS:
        return list(range(len(values))), ""
    size = np.where(np.isnan(values), -1.0, np.abs(values))
    rows = sorted(int(row) for row in np.argsort(-size, kind="stable")[:MOST_DOTS])
    return rows, f"the {MOST_DOTS} largest of {len(values)}"


FIGURES: dict[tuple[str, ...], Callable[[Drawing], Figure | None]] = {
    ("place",): dots,
    ("scale",): curve,
    ("place", "place"): matrix,
    ("scale", "scale"): matrix,
    ("scale", "place"): curves,
    ("place", "scale"): curves,
}


def strip(reading: Reading, here: Sequence[float], *, expected: float | None = None) -> Markup:
    """Where some values lie among all values of a reading: ticks for all, a diamond for each of `here`."""
    values = reading.values[np.isfinite(reading.values)]
    bounds = [*values.tolist(), *here]
    if expected is not None and np.isfinite(expected):
        bounds.append(expected)
    bounds = [value for value in bounds if np.isfinite(value)]
    if len(bounds) < 2 or min(bounds) == max(bounds):
        return ""
    scale = Scale.of(np.asarray(bounds))
    left, span, middle = 8.0, 264.0, 13.0
    sample = values if values.size <= 240 else np.quantile(values, np.linspace(0, 1, 240))
    places = sorted({round(left + span * scale.at(float(value)), 1) for value in sample})
    ticks = "".join(f"M{place:g} {middle - 6:g}v12" for place in places)
    parts = [line(left, middle, left + span, middle, "axis"), element("path", d=ticks, class_="ticks")]
    if expected is not None and np.isfinite(expected):
        x = left + span * scale.at(expected)
        parts.append(element("path", d=f"M{x - 4:.1f} 1h8l-4 6z", class_="expected"))
    for value in here:
        if np.isfinite(value):
            x = left + span * scale.at(value)
            parts.append(element("path", d=f"M{x:.1f} {middle - 6:g}l6 6l-6 6l-6-6z", class_="here"))
    parts.append(words(typeset(scale.low), left - 4, 33, class_="t dim"))
    parts.append(words(typeset(scale.high), left + span + 4, 33, anchor="end", class_="t dim"))
    name = reading.lens.replace("_", " ")
    said = f"{name}: here {', '.join(typeset(v) for v in here)}; elsewhere {summary(reading)}"
    return picture(280, 37, "".join(parts), label=said, class_="strip")


def _x_axis(scale: Scale, left: float, span: float, top: float, bottom: float) -> Markup:
    parts = []
    for tick in scale.ticks():
        x = left + span * scale.at(tick)
        parts.append(line(x, top, x, bottom, "axis" if tick == 0 else "grid"))
        parts.append(words(typeset(tick), x, bottom + 14, anchor="middle", class_="t dim"))
    return "".join(parts)
