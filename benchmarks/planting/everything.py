"""All planted mistakes, in the order of the kinds."""

from __future__ import annotations

from planting import data, masks, positions, projections, scores, updates
from planting.planted import Planted

PLANTED: tuple[Planted, ...] = (
    *masks.PLANTED, *scores.PLANTED, *projections.PLANTED, *positions.PLANTED, *updates.PLANTED, *data.PLANTED
)


def kinds() -> dict[str, list[Planted]]:
    """Kind -> its planted mistakes."""
    found: dict[str, list[Planted]] = {}
    for each in PLANTED:
        found.setdefault(each.kind, []).append(each)
    return found
