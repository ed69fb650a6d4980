"""The pictures of the report: cost against quality, and confidence against precision."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from attnscope.pages.scale import Scale
from attnscope.pages.svg import element, line, picture, polyline, tooltip, words

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 900.0, 56.0, 120.0, 14.0, 390.0
SIDE = 330.0
COLOURS = {"baseline": "s3", "curvature": "s0", "exact": "s2", "diagnosis": "s2", "combination": "s1", "chance": "s3"}
LETTER = 6.1  # mean width of a letter in a figure's text
Box = tuple[float, float, float, float]


def cost_against_quality(entries: Sequence[Mapping[str, Any]]) -> str:
    """MRR over the median cost in gradients, one mark per ranker; empty without any."""
    drawn = [
        entry
        for entry in entries
        if not math.isnan(entry["cost"]) and not math.isnan(entry["metrics"]["mrr"]["value"])
    ]
    if not drawn:
        return ""
    costs = np.array([entry["cost"] + 1.0 for entry in drawn])  # the logarithm of what costs nothing
    high = max(float(costs.max()), 10.0)
    values = np.array([entry["metrics"]["mrr"]["value"] for entry in drawn])
    across, up = Scale(0.0, math.log10(high)), Scale(0.0, max(1e-9, float(np.ceil(values.max() * 10) / 10)))
    span = WIDTH - LEFT - RIGHT

    def place(cost: float, value: float) -> tuple[float, float]:
        return LEFT + span * across.at(math.log10(cost + 1.0)), BOTTOM - (BOTTOM - TOP) * up.at(value)

    parts = []
    for tick in up.ticks(5):
        y = place(0, tick)[1]
        parts += [line(LEFT, y, WIDTH - RIGHT, y, "axis" if tick == 0 else "grid")]
        parts.append(words(f"{tick:.2g}", LEFT - 7, y + 3.5, anchor="end", class_="t dim"))
    for cost in (0, 1, 3, 10, 30, 100, 300, 1000, 3000):
        if cost + 1 <= high:
            parts.append(words(f"{cost}", place(cost, 0)[0], BOTTOM + 16, anchor="middle", class_="t dim"))
    parts.append(words("cost in gradients →", WIDTH - RIGHT, BOTTOM + 34, anchor="end", class_="t dim"))
    parts.append(words("↑ MRR", LEFT, BOTTOM + 34, class_="t dim"))
    ordered = sorted(drawn, key=lambda item: -item["metrics"]["mrr"]["value"])
    spots = [place(entry["cost"], entry["metrics"]["mrr"]["value"]) for entry in ordered]
    marks, names = [], []
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in spots]
    for entry, (x, y) in zip(ordered, spots, strict=True):
        value = entry["metrics"]["mrr"]["value"]
        said = f"{entry['ranker']}: MRR {value:.2f}, {entry['cost']:.0f} gradients"
        colour = COLOURS.get(entry["family"], "s3")
        marks.append(element("circle", tooltip(said), cx=x, cy=y, r=4.0, class_=f"mark {colour}"))
        names += _name(entry["ranker"].replace("_", " "), x, y, taken)
    parts += [*names, *marks]
    return picture(WIDTH, BOTTOM + 42, "".join(parts), label="MRR of each ranker over its cost in gradients")


def _name(said: str, x: float, y: float, taken: list[Box]) -> list[str]:
    """A name beside its mark, at the nearest height where it covers nothing; none when there is no room."""
    width = LETTER * len(said)
    for shift in sorted(range(-60, 61, 4), key=abs):
        for right in (True, False):
            left = x + 9 if right else x - 9 - width
            box = (left, y + shift - 7, left + width, y + shift + 6)
            inside = left > LEFT + 2 and left + width < WIDTH and TOP < y + shift < BOTTOM - 5
            if not inside or any(_overlap(box, other) for other in taken):
                continue
            taken.append(box)
            name = words(said, left, y + shift + 3.5)
            if abs(shift) <= 6:
                return [name]
            end = left - 2 if right else left + width + 2
            return [line(x, y, end, y + shift, "axis thin"), name]
    return []


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def reliability_curve(found: Mapping[str, Any]) -> str:
    """Share of findings that are right over their confidence, as stated and as learnt; empty without findings."""
    if not found["findings"]:
        return ""
    left, top, span = 44.0, 12.0, SIDE - 70.0
    bottom = top + span

    def place(confidence: float, precision: float) -> tuple[float, float]:
        return left + span * confidence, bottom - span * precision

    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = place(tick, tick)
        parts += [line(left, y, left + span, y, "axis" if tick == 0 else "grid")]
        parts.append(words(f"{tick:g}", left - 7, y + 3.5, anchor="end", class_="t dim"))
        parts.append(words(f"{tick:g}", x, bottom + 15, anchor="middle", class_="t dim"))
    parts.append(element("path", d=polyline([place(0, 0), place(1, 1)]), class_="line dashed ideal"))
    for rank, (form, said) in enumerate((("stated", "as stated"), ("learnt", "as learnt"))):
        points = [place(item["confidence"], item["precision"]) for item in found[form]["bins"]]
        parts.append(element("path", d=polyline(list(points)), class_=f"line s{rank}"))
        for (x, y), item in zip(points, found[form]["bins"], strict=True):
            size = 2.5 + 1.2 * math.log10(max(item["count"], 1))
            about = f"{item['count']} findings: {item['confidence']:.2f} {said}, {item['precision']:.2f} right"
            parts.append(element("circle", tooltip(about), cx=x, cy=y, r=size, class_=f"mark s{rank}"))
        key = bottom + 50
        parts.append(line(left + 110 * rank, key - 4, left + 18 + 110 * rank, key - 4, f"line s{rank}"))
        parts.append(words(said, left + 24 + 110 * rank, key))
    parts.append(words("confidence →", left + span, bottom + 31, anchor="end", class_="t dim"))
    parts.append(words("↑ right", left, bottom + 31, class_="t dim"))
    return picture(SIDE, bottom + 60, "".join(parts), label="share of findings that are right over their confidence")
