"""A study as one offline page: its claims in a table, its curves beside the paper's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from attnscope.pages.page import asset, environment, policy
from attnscope.pages.scale import LOG, Scale
from attnscope.pages.svg import element, line, picture, polyline, words
from attnscope.whole_file import write_whole

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 560.0, 62.0, 16.0, 12.0, 238.0
MOST_POINTS = 400


def study_page(result: Mapping[str, Any], curves: Sequence[Mapping[str, Any]], path: str | Path) -> Path:
    """Writes the page.

    Args:
        result: what `StudyResult.to_dict` gives, with `title`, `reference` and `figures` (name -> labels of x, y).
        curves: mappings with `figure`, `name`, `x`, `y`, and `reference` for what the paper shows.
        path: where the page goes.

    Returns:
        the path.
    """
    style = asset("page.css") + asset("study.css")
    figures = [
        (name, Markup(_figure(name, labels, [curve for curve in curves if curve["figure"] == name])))
        for name, labels in result["figures"].items()
        if any(curve["figure"] == name for curve in curves)
    ]
    html = (
        environment()
        .from_string(asset("study.html"))
        .render(
            study=result,
            claims=result["claims"],
            held=sum(claim["holds"] for claim in result["claims"]),
            figures=figures,
            style=Markup(style),
            policy=policy(style, ""),
        )
    )
    return write_whole(path, html)


def study_figures(
    study: str, figures: Mapping[str, Sequence[str]], curves: Sequence[Mapping[str, Any]], folder: str | Path
) -> dict[str, Path]:
    """Writes each figure as an SVG file that brings its own style.

    Args:
        study: the study's name, with which each file's name starts.
        figures: name -> labels of x, y.
        curves: as in `study_page`.
        folder: made when it is not there.

    Returns:
        figure name -> the file.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    written = {}
    for name, labels in figures.items():
        chosen = [curve for curve in curves if curve["figure"] == name]
        if chosen:
            drawn = _figure(name, labels, chosen)
            opened = drawn.index(">") + 1
            head = drawn[:opened].replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
            whole = f"{head}<style>{asset('study_figure.css')}</style>{drawn[opened:]}\n"
            written[name] = write_whole(Path(folder) / f"{study}-{name.replace(' ', '-')}.svg", whole)
    return written


def _figure(name: str, labels: Sequence[str], curves: Sequence[Mapping[str, Any]]) -> str:
    """Lines for what was measured; marks, or a dashed line where it is dense, for the reference."""
    x = Scale.of(np.concatenate([np.asarray(curve["x"], float) for curve in curves]))
    heights = np.concatenate([np.asarray(curve["y"], float) for curve in curves])
    # Ratios near 1 would be a flat line above a zero that says nothing.
    y = Scale.of(heights, zero=bool(heights.min() < 0.5 * heights.max()))
    y = Scale(y.low, y.high) if y.form == LOG and y.low > 0 and y.high / y.low < 1e4 else y
    span = WIDTH - LEFT - RIGHT

    def place(point: tuple[float, float]) -> tuple[float, float]:
        return LEFT + span * x.at(point[0]), BOTTOM - (BOTTOM - TOP) * y.at(point[1])

    parts = []
    for tick in y.ticks(4):
        height = place((x.low, tick))[1]
        parts += [
            line(LEFT, height, WIDTH - RIGHT, height, "axis" if tick == 0 else "grid"),
            words(f"{tick:g}", LEFT - 7, height + 3.5, anchor="end", class_="t dim"),
        ]
    for tick in x.ticks(5):
        parts.append(words(f"{tick:g}", place((tick, y.low))[0], BOTTOM + 15, anchor="middle", class_="t dim"))
    parts.append(words(f"{labels[0]} →", WIDTH - RIGHT, BOTTOM + 32, anchor="end", class_="t dim"))
    parts.append(words(f"↑ {labels[1]}", LEFT, BOTTOM + 32, class_="t dim"))
    colours = {key: index for index, key in enumerate(dict.fromkeys(_family(curve) for curve in curves))}
    legend = 0
    for curve in curves:
        rank = colours[_family(curve)]
        colour = f"s{rank % 4}{' dotted' if rank >= 4 else ''}"
        points = [place(point) for point in zip(*_thinned(curve["x"], curve["y"]), strict=True)]
        if curve.get("reference") and len(points) <= 20:
            parts += [element("circle", cx=px, cy=py, r=3.2, class_=f"mark {colour}") for px, py in points]
        else:
            dashed = " dashed" if curve.get("reference") else ""
            parts.append(element("path", d=polyline(list(points)), class_=f"line {colour}{dashed}"))
        parts += _legend(legend, curve, colour)
        legend += 1
    height = BOTTOM + 44 + 17 * ((legend + 1) // 2)
    said = "; ".join(str(curve["name"]) for curve in curves)
    return picture(WIDTH, height, "".join(parts), label=f"{name}: {said}")


def _legend(index: int, curve: Mapping[str, Any], colour: str) -> list[str]:
    x, y = LEFT + (index % 2) * 240, BOTTOM + 52 + 17 * (index // 2)
    reference = curve.get("reference")
    if reference and len(curve["x"]) <= 20:
        sign = element("circle", cx=x + 9, cy=y - 4, r=3.2, class_=f"mark {colour}")
    else:
        sign = line(x, y - 4, x + 18, y - 4, f"line {colour}{' dashed' if reference else ''}")
    return [sign, words(curve["name"], x + 24, y)]


def _family(curve: Mapping[str, Any]) -> str:
    """Measured and reference curves of one thing share a colour: their names share a start."""
    return str(curve["name"]).split(",")[0] if str(curve["figure"]) not in ("norm ratios",) else str(curve["name"])


def _thinned(x: Sequence[float], y: Sequence[float]) -> tuple[list[float], list[float]]:
    step = max(1, len(x) // MOST_POINTS)
    return list(x[::step]), list(y[::step])
