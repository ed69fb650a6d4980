"""How much of each block's curvature, and of each query-key coupling, is in the Gauss-Newton part and the residual."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attnscope.formats.curvature_table import Blocks, block_label
from attnscope.formats.numbers import typeset
from attnscope.pages.drawing import Array
from attnscope.pages.svg import Markup, element, line, picture, short, tooltip, words
from attnscope.readings import Reading

MOST_ROWS, PITCH, WIDTH = 40, 24.0, 560.0
SAID = {"hessian": "whole", "gauss_newton": "Gauss-Newton", "residual": "residual"}
COLOURS = {"hessian": "whole", "gauss_newton": "top", "residual": "bottom"}


def norms_by_part(reading: Reading, blocks: Blocks) -> Markup:
    """Both parts' norms over the whole's, block by block; the whole's norm is the number at the right."""
    names = [str(name) for name in reading.labels("block")]
    whole = reading.values[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        values = reading.values[1:] / whole
        errors = np.zeros_like(values) if reading.stderr is None else reading.stderr[1:] / whole
    kept = np.sort(np.argsort(-whole, kind="stable")[:MOST_ROWS])
    said = [block_label(names[row], blocks) for row in kept]
    ends = [f"‖H‖ {typeset(float(whole[row]))}" for row in kept]
    return _bars(values[:, kept], errors[:, kept], ("gauss_newton", "residual"), said, ends,
                 "norms of both parts, over the whole's, by block", _rest(len(kept), len(names)))


def query_key_by_part(reading: Reading, blocks: Blocks) -> Markup:
    """The coupling of each query with its key, in the whole Hessian and in both parts."""
    pairs = [str(pair).split(", ") for pair in reading.labels("pair")]
    kept = np.arange(min(len(pairs), MOST_ROWS))
    said = [" – ".join(block_label(name, blocks) for name in pairs[row]) for row in kept]
    errors = np.zeros_like(reading.values) if reading.stderr is None else reading.stderr
    ends = [", ".join(typeset(float(value), digits=2) for value in reading.values[:, row]) for row in kept]
    return _bars(reading.values[:, kept], errors[:, kept], tuple(SAID), said, ends,
                 "coupling of queries with keys, by part", _rest(len(kept), len(pairs)))


def _rest(shown: int, of: int) -> str:
    return "" if shown == of else f"{shown} of {of}"


def _bars(
    values: Array, errors: Array, parts: Sequence[str], said: Sequence[str], ends: Sequence[str], label: str, rest: str
) -> Markup:
    """One row per place, one bar per part, with a whisker of one standard error."""
    named = [short(name, 26) for name in said]
    left, thick = 14 + 6.2 * max(map(len, named), default=1), (PITCH - 6) / len(parts)
    span = WIDTH - left - 132
    most = max(float(np.nanmax(values + errors, initial=0.0)), 1e-12)
    drawn = []
    for row, name in enumerate(named):
        y = 8 + PITCH * row
        drawn.append(words(name, left - 8, y + PITCH / 2 + 1, anchor="end", class_="t mono"))
        for bar, part in enumerate(parts):
            value, error = float(values[bar, row]), float(errors[bar, row])
            if not np.isfinite(value):
                continue
            top = y + thick * bar
            title = tooltip(f"{name}, {SAID[part]}: {typeset(value)} ± {typeset(error, digits=2)}")
            drawn.append(element("rect", title, x=left, y=top, width=max(span * value / most, 0.6), height=thick - 1,
                                 class_=f"share {COLOURS[part]}"))
            middle = top + (thick - 1) / 2
            low, high = (left + span * max(value + sign * error, 0.0) / most for sign in (-1, 1))
            drawn.append(line(low, middle, high, middle, "ritz"))
        drawn.append(words(ends[row], WIDTH - 8, y + PITCH / 2 + 1, anchor="end", class_="t num"))
    bottom = 8 + PITCH * len(named) + 14
    for slot, part in enumerate(parts):
        x = left + 112 * slot
        drawn.append(element("rect", x=x, y=bottom - 8, width=12, height=7, class_=f"share {COLOURS[part]}"))
        drawn.append(words(SAID[part], x + 17, bottom, class_="t dim"))
    drawn.append(words(rest, WIDTH - 8, bottom, anchor="end", class_="t dim"))
    return picture(WIDTH, bottom + 8, "".join(drawn), label=label)
