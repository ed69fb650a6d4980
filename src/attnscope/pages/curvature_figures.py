"""The figures of a curvature page: block map, coupling, density, eigenvector mass, stability over training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from attnscope.formats.curvature_table import Blocks, block_label
from attnscope.formats.numbers import typeset
from attnscope.pages.drawing import Array, Drawing, hit
from attnscope.pages.linkage import Join, average_linkage, leaves
from attnscope.pages.scale import LOG, Scale
from attnscope.pages.svg import Markup, element, line, picture, polyline, short, tooltip, words
from attnscope.readings import Reading

MOST_TITLES, MOST_BARS, DECADES = 2600, 16, 7


def block_map(reading: Reading, blocks: Blocks, drawing: Drawing | None = None) -> Markup:
    """Layers as rows, the blocks of a layer as columns; blocks outside the layers below; suspects are ringed."""
    rows: dict[int, dict[str, float]] = {}
    outside: list[tuple[str, float]] = []
    suspects = set[str]()
    for index, (name, value) in enumerate(zip(reading.labels("block"), reading.values.tolist(), strict=True)):
        layer, said = blocks[str(name)]["layer"], block_label(str(name), blocks)
        if drawing is not None and (index,) in drawing.suspects:
            suspects.add(said)
        if layer is None:
            outside.append((said, value))
        else:
            rows.setdefault(layer, {})[said.removeprefix(f"L{layer}").removeprefix(".") or "all"] = value
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    scale = Scale.of(reading.values)
    pitch, height, left = (58.0, 24.0, 34.0) if len(columns) <= 12 else (26.0, 24.0, 34.0)
    top = 18 + 5.6 * max((len(key) for key in columns), default=1) if pitch * 0.16 < max(
        (len(key) for key in columns), default=1) else 24.0
    parts = []
    for slot, key in enumerate(columns):
        x = left + pitch * (slot + 0.5)
        if top > 24:
            turned = f"rotate(-60 {x + 3:.1f} {top - 8:.1f})"
            parts.append(words(key, x + 3, top - 8, transform=turned, class_="t mono"))
        else:
            parts.append(words(key, x, top - 8, anchor="middle", class_="t mono"))
    for slot, (layer, row) in enumerate(sorted(rows.items())):
        y = top + height * slot
        parts.append(words(f"L{layer}", left - 8, y + 15, anchor="end", class_="t mono"))
        for place, key in enumerate(columns):
            if key in row:
                said = f"L{layer}.{key}"
                parts.append(_cell(scale, row[key], left + pitch * place, y, pitch, height, said))
                if said in suspects:
                    parts.append(element("rect", x=left + pitch * place - 1.2, y=y - 1.2, width=pitch + 0.4,
                                         height=height + 0.4, rx=2.5, class_="ring"))
    bottom = top + height * len(rows) + 12
    for slot, (said, value) in enumerate(outside):
        x, y = left + (slot % 2) * 250.0, bottom + 26 * (slot // 2)
        parts.append(_cell(scale, value, x, y, 58.0, height, said))
        parts.append(words(short(said, 28), x + 66, y + 15, class_="t mono"))
    bottom += 26 * ((len(outside) + 1) // 2) + 10
    width = max(left + pitch * len(columns) + 40, 560.0)
    parts.append(colours(scale, left, bottom, 220.0))
    label = "top eigenvalue of every block" if drawing is None else drawing.label
    return picture(width, bottom + 30, "".join(parts), label=label)


def coupling_matrix(
    reading: Reading, blocks: Blocks, *, hierarchical: bool, drawing: Drawing | None = None
) -> Markup:
    """Every pair, with a band that tells each block's layer; in hierarchical order also the tree.

    With a `drawing`, the page's script reads the numbers, and the cells carry no titles of their own.
    """
    names = [str(name) for name in reading.labels("block")]
    n = len(names)
    values = reading.values.copy()
    np.fill_diagonal(values, np.nan)
    joins: list[Join] = []
    order = list(range(n))
    if hierarchical:
        with np.errstate(divide="ignore", invalid="ignore"):
            joins = average_linkage(-np.log(values))
        order = leaves(joins, n)
    known = values if reading.stderr is None else np.where(values > 2 * reading.stderr, values, np.nan)
    scale = Scale.of(known)
    said = [short(block_label(name, blocks), 22) for name in names]
    cell = min(max(560.0 / max(n, 1), 3.0), 24.0)
    wide = 12 + 6.2 * max(map(len, said), default=1)
    left, top = wide + 12, wide + 12
    side = cell * n
    parts = [_band(names, order, blocks, left - 9, top, cell, upright=True),
             _band(names, order, blocks, left, top - 9, cell, upright=False)]
    every = max(1, round(10.5 / cell))
    for slot in range(0, n, every):
        middle = cell * (slot + 0.5) + 3.2
        parts.append(words(said[order[slot]], left - 14, top + middle, anchor="end", class_="t mono"))
        x, y = left + middle, top - 14
        parts.append(words(said[order[slot]], x, y, class_="t mono", transform=f"rotate(-90 {x:.1f} {y:.1f})"))
    parts.append(_pairs(known, reading, order, said, scale, (left, top, cell), titles=drawing is None))
    if not hierarchical:
        parts += _layer_lines(names, blocks, left, top, cell)
    right = left + side
    if joins:
        parts.append(_tree(joins, order, right + 6, top, cell, 70.0))
        right += 80
    parts.append(colours(scale, left, top + side + 12, min(side, 240.0)))
    kind = "hierarchical order" if hierarchical else "model order"
    box: dict[str, object] = {}
    if drawing is not None:
        box = hit(drawing, left, top, cell, cell, n, order, row_stride=n, column_stride=1, column_order=order)
        place = {row: slot for slot, row in enumerate(order)}
        parts += [
            element("rect", x=left + cell * place[column] - 1, y=top + cell * place[row] - 1, width=cell + 1,
                    height=cell + 1, rx=2, class_="ring")
            for row, column in sorted(drawing.suspects)
        ]
    label = f"coupling of all pairs, {kind}"
    return picture(max(right + 8, left + 250), top + side + 46, "".join(parts), label=label, **box)


def density(reading: Reading, drawing: Drawing | None = None) -> Markup:
    """The spectral density on a logarithmic scale, its error, and the Ritz values as ticks."""
    x_values = np.array([float(value) for value in reading.labels("eigenvalue")])
    y_values = reading.values
    low = max(float(y_values.max()), 1e-300) * 10.0**-DECADES
    left, right, top, bottom, width = 62.0, 16.0, 12.0, 230.0, 620.0
    across = Scale(float(x_values[0]), float(x_values[-1]))
    up = Scale(low, max(float(y_values.max()) * 1.5, low * 10), LOG)

    def x_of(value: float) -> float:
        return left + (width - left - right) * across.at(value)

    def y_of(value: float) -> float:
        return bottom - (bottom - top) * (up.at(value) if value > low else 0.0)

    parts = []
    for tick in up.ticks(4):
        parts.append(line(left, y_of(tick), width - right, y_of(tick), "grid"))
        parts.append(words(typeset(tick), left - 7, y_of(tick) + 3.5, anchor="end", class_="t dim"))
    for tick in across.ticks(6):
        parts.append(words(typeset(tick), x_of(tick), bottom + 44, anchor="middle", class_="t dim"))
        parts.append(line(x_of(tick), top, x_of(tick), bottom, "axis" if tick == 0 else "grid"))
    points = [(x_of(float(x)), y_of(float(y))) for x, y in zip(x_values, y_values, strict=True)]
    if reading.stderr is not None and np.isfinite(reading.stderr).all():
        above = [(x_of(float(x)), y_of(float(y + e)))
                 for x, y, e in zip(x_values, y_values, reading.stderr, strict=True)]
        below = [(x_of(float(x)), y_of(float(y - e)))
                 for x, y, e in zip(x_values, y_values, reading.stderr, strict=True)]
        parts.append(element("path", d=polyline([*above, *below[::-1]]) + "z", class_="area"))
    parts.append(element("path", d=polyline(list(points)), class_="line s0"))
    reach = float(x_values[-1] - x_values[0])
    for value, residual in _ritz(reading):
        sure = residual <= 0.01 * max(abs(value), 0.001 * reach)
        parts.append(line(x_of(value), bottom + 4, x_of(value), bottom + (22 if sure else 14),
                          "ritz sure" if sure else "ritz"))
    parts.append(words("Ritz values", left - 7, bottom + 18, anchor="end", class_="t dim"))
    parts.append(words("eigenvalue →", width - right, bottom + 60, anchor="end", class_="t dim"))
    box: dict[str, object] = {}
    if drawing is not None:
        box = hit(drawing, left, top, width - left - right, bottom - top, len(x_values), [0], row_stride=0,
                  column_stride=1)
    return picture(width, bottom + 68, "".join(parts), label="spectral density of all blocks together", **box)


def _ritz(reading: Reading) -> list[tuple[float, float]]:
    """Ritz values with their residuals; where only nodes of a quadrature are known, those of the first start."""
    facts = reading.facts
    if "ritz" in facts:
        return list(zip(facts["ritz"], facts["residuals"], strict=True))
    starts = facts.get("nodes") or [()]
    return [(float(value), np.inf) for value in starts[0]]


def mass_by_block(reading: Reading, blocks: Blocks) -> Markup:
    """Bars: the share of the sharpest direction, and of the most negative one, in each block."""
    names = [str(name) for name in reading.labels("block")]
    values = np.nan_to_num(reading.values)
    chosen = sorted(np.argsort(-values.max(0), kind="stable")[:MOST_BARS].tolist())
    said = [short(block_label(names[row], blocks), 26) for row in chosen]
    left, pitch, top, width = 14 + 6.2 * max(map(len, said), default=1), 19.0, 8.0, 560.0
    span = width - left - 76
    most = max(float(values.max()), 1e-12)
    parts = []
    for slot, row in enumerate(chosen):
        y = top + pitch * slot
        parts.append(words(said[slot], left - 8, y + 12, anchor="end", class_="t mono"))
        for end, colour in ((0, "top"), (1, "bottom")):
            length = span * float(values[end, row]) / most
            title = tooltip(f"{said[slot]}: {float(values[end, row]):.1%}")
            parts.append(element(
                "rect", title, x=left, y=y + 3 + 6.5 * end, width=max(length, 0.6), height=6, class_=f"share {colour}",
            ))
        parts.append(words(_percent(values[:, row]), left + span * float(values[:, row].max()) / most + 6, y + 12,
                           class_="t num"))
    bottom = top + pitch * len(chosen) + 16
    for slot, (text, colour) in enumerate((("top eigenvector", "top"), ("bottom eigenvector", "bottom"))):
        x = left + 130 * slot
        parts.append(element("rect", x=x, y=bottom - 8, width=12, height=7, class_=f"share {colour}"))
        parts.append(words(text, x + 17, bottom, class_="t dim"))
    if len(chosen) < len(names):
        rest = f"the {len(chosen)} largest of {len(names)}"
        parts.append(words(rest, width - 8, bottom, anchor="end", class_="t dim"))
    return picture(width, bottom + 8, "".join(parts), label="mass of the extreme eigenvectors by block")


def _percent(ends: Array) -> str:
    return ", ".join(f"{float(value):.0%}" if value >= 0.005 else "<1%" for value in ends)


def mass_by_head(reading: Reading) -> Markup:
    """Layers by heads, for the top and the bottom eigenvector."""
    ends, layers, heads = reading.values.shape
    scale = Scale(0.0, max(float(np.nanmax(reading.values, initial=0.0)), 1e-12))
    cell = min(max(250.0 / heads, 12.0), 30.0)
    parts, left = [], 34.0
    for end in range(ends):
        origin = left + end * (cell * heads + 56)
        name = f"{reading.labels('end')[end]} eigenvector"
        parts.append(words(name, origin, 14))
        for row in range(layers):
            y = 36 + cell * row
            parts.append(words(f"L{reading.labels('layer')[row]}", origin - 7, y + cell / 2 + 3.5, anchor="end",
                               class_="t mono"))
            for head in range(heads):
                value = float(reading.values[end, row, head])
                if np.isfinite(value):
                    title = tooltip(f"layer {reading.labels('layer')[row]}, head {head}: {value:.2%}")
                    parts.append(element("rect", title, x=origin + cell * head, y=y, width=cell - 1.5,
                                         height=cell - 1.5, class_=scale.level(value)))
        for head in range(0, heads, 1 if cell >= 16 else 2):
            parts.append(words(f"H{head}", origin + cell * (head + 0.5) - 0.7, 30, anchor="middle", class_="t mono"))
    bottom = 36 + cell * layers + 12
    parts.append(colours(scale, left, bottom, 200.0))
    width = left + ends * (cell * heads + 56)
    return picture(max(width, 290), bottom + 32, "".join(parts), label="mass of the extreme eigenvectors by head")


def over_training(readings: Mapping[str, Reading]) -> Markup:
    """Loss, sharpness and what the optimiser sees along training, with the stability limit drawn in."""
    shown = [
        (title, readings[name], limit)
        for name, title, limit in (
            ("stability_over_training", "what the optimiser sees, over its limit", 1.0),
            ("sharpness_over_training", "top eigenvalue of the Hessian", None),
            ("loss_over_training", "loss", None),
        )
        if name in readings and np.isfinite(readings[name].values).any()
    ]
    parts: list[Markup] = []
    height = 0.0
    for title, reading, limit in shown:
        parts.append(_along(title, reading, limit, height))
        height += 196
    return picture(620.0, height, "".join(parts), label="curvature over training")


def _along(title: str, reading: Reading, limit: float | None, offset: float) -> Markup:
    steps = np.array([float(step) for step in reading.labels("step")])
    values = reading.values
    held = values if limit is None else np.append(values, limit)
    scale = Scale.of(held, zero=True)
    left, right, top, bottom, width = 62.0, 16.0, offset + 26, offset + 158, 620.0
    across = Scale(float(steps.min()), float(max(steps.max(), steps.min() + 1)))
    place = _placer(across, scale, left, width - right, top, bottom)
    parts = [words(title, left, offset + 14)]
    for tick in scale.ticks(4):
        y = place(float(steps.min()), tick)[1]
        parts.append(line(left, y, width - right, y, "axis" if tick == 0 else "grid"))
        parts.append(words(typeset(tick), left - 7, y + 3.5, anchor="end", class_="t dim"))
    for tick in across.ticks(5):
        x = place(tick, scale.low)[0]
        parts.append(words(typeset(tick), x, bottom + 15, anchor="middle", class_="t dim"))
    points = [
        place(float(step), float(value)) if np.isfinite(value) else None
        for step, value in zip(steps, values, strict=True)
    ]
    parts.append(element("path", d=polyline(points), class_="line s0"))
    parts += [element("circle", cx=point[0], cy=point[1], r=2.6, class_="dot") for point in points if point]
    if limit is not None:
        y = place(float(steps.min()), limit)[1]
        parts.append(line(left, y, width - right, y, "limit"))
        parts.append(words("limit", width - right, y - 5, anchor="end"))
    return "".join(parts)


def _placer(
    across: Scale, up: Scale, left: float, right: float, top: float, bottom: float
) -> Callable[[float, float], tuple[float, float]]:
    return lambda x, y: (left + (right - left) * across.at(x), bottom - (bottom - top) * up.at(y))


def colours(scale: Scale, left: float, top: float, width: float) -> Markup:
    """The colours, with the numbers at their ends."""
    letter = "d" if scale.form == "diverging" else "q"
    step = width / 9
    boxes = "".join(
        element("path", d=f"M{left + step * level:.1f} {top:.1f}h{step:.1f}v7h-{step:.1f}z", class_=f"{letter}{level}")
        for level in range(9)
    )
    middle = words(scale.words, left + width / 2, top + 19, anchor="middle", class_="t dim") if scale.words else ""
    ends = words(typeset(scale.low, digits=2), left, top + 19, class_="t dim")
    return boxes + ends + middle + words(typeset(scale.high, digits=2), left + width, top + 19, anchor="end",
                                         class_="t dim")


def _cell(scale: Scale, value: float, x: float, y: float, width: float, height: float, said: str) -> Markup:
    if not np.isfinite(value):
        return element("rect", tooltip(f"{said}: not known"), x=x, y=y, width=width - 2, height=height - 2,
                       class_="unknown")
    level = scale.level(value)
    title = tooltip(f"{said}: {typeset(value)}")
    box = element("rect", title, x=x, y=y, width=width - 2, height=height - 2, class_=level)
    if width < 50:
        return box
    dark = (level[0] == "q" and int(level[1]) >= 5) or level in ("d0", "d1", "d7", "d8")
    return box + words(typeset(value, digits=2), x + width / 2 - 1, y + height / 2 + 2.6, anchor="middle",
                       class_="t on" if dark else "t off")


def _pairs(
    known: Array, reading: Reading, order: Sequence[int], said: Sequence[str], scale: Scale,
    place: tuple[float, float, float], *, titles: bool,
) -> Markup:
    """The cells; those whose error bar reaches zero stay empty. Small matrices say each number."""
    left, top, cell = place
    gap = 1.0 if cell >= 9 else 0.2
    parts, paths = [], dict[str, list[str]]()
    for slot_y, row in enumerate(order):
        for slot_x, column in enumerate(order):
            value = float(known[row, column])
            if np.isnan(value):
                continue
            x, y, size = left + cell * slot_x, top + cell * slot_y, cell - gap
            if titles and len(order) ** 2 <= MOST_TITLES:
                error = "" if reading.stderr is None else f" ± {typeset(float(reading.stderr[row, column]), digits=2)}"
                title = tooltip(f"{said[row]}, {said[column]}: {typeset(value)}{error}")
                parts.append(element("rect", title, x=x, y=y, width=size, height=size, class_=scale.level(value)))
            else:
                paths.setdefault(scale.level(value), []).append(f"M{x:.4g} {y:.4g}h{size:.3g}v{size:.3g}h-{size:.3g}z")
    parts += [element("path", d="".join(found), class_=level) for level, found in sorted(paths.items())]
    return "".join(parts)


def _band(
    names: Sequence[str], order: Sequence[int], blocks: Blocks, left: float, top: float, cell: float, *, upright: bool
) -> Markup:
    """One strip along an axis: the colour of each block's layer, from the first to the last."""
    layers = [blocks[name]["layer"] for name in names]
    last = max((layer for layer in layers if layer is not None), default=0)
    parts = []
    for slot, row in enumerate(order):
        layer = layers[row]
        level = "none" if layer is None else f"b{min(int(layer * 9 / (last + 1)), 8)}"
        x, y = (left, top + cell * slot) if upright else (left + cell * slot, top)
        width, height = (6.0, cell) if upright else (cell, 6.0)
        title = tooltip("outside the layers" if layer is None else f"layer {layer}")
        parts.append(element("rect", title, x=x, y=y, width=width, height=height, class_=f"band {level}"))
    return "".join(parts)


def _layer_lines(names: Sequence[str], blocks: Blocks, left: float, top: float, cell: float) -> list[Markup]:
    layers = [blocks[name]["layer"] for name in names]
    side = cell * len(names)
    cuts = [slot for slot in range(1, len(names)) if layers[slot] != layers[slot - 1]]
    return [
        line(*ends, "cut")
        for slot in cuts
        for ends in (
            (left + cell * slot - 0.5, top, left + cell * slot - 0.5, top + side),
            (left, top + cell * slot - 0.5, left + side, top + cell * slot - 0.5),
        )
    ]


def _tree(joins: Sequence[Join], order: Sequence[int], left: float, top: float, cell: float, width: float) -> Markup:
    """The dendrogram beside the rows: blocks that bend together join near the matrix."""
    n = len(order)
    place: dict[int, tuple[float, float]] = {
        row: (left, top + cell * (slot + 0.5)) for slot, row in enumerate(order)
    }
    heights = np.array([join.height for join in joins])
    low, high = float(heights.min()), float(heights.max())
    d = []
    for number, join in enumerate(joins):
        share = (join.height - low) / (high - low) if high > low else 1.0
        x = left + 6 + (width - 6) * share
        (x1, y1), (x2, y2) = place[join.left], place[join.right]
        d.append(f"M{x1:.1f} {y1:.1f}H{x:.1f}V{y2:.1f}H{x2:.1f}")
        place[n + number] = (x, (y1 + y2) / 2)
    return element("path", d="".join(d), class_="tree")
