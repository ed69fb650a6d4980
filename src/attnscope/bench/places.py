"""Places: which candidates a row has at each level, which of them are right, and what an order says of them.

Levels: `place` (blocks and sites together, what a user is told), `block`, `site`, `layer` and `head`. A place is
looked up in the coarsest name that the level has: `L1H2.K` is in the block `L1.K`, `L1H2` at the site `L1.heads`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import lru_cache

from attnscope.anatomy.blocks import parse_place
from attnscope.bench.row import Row

LEVELS = ("place", "block", "site", "layer", "head")


def candidates(row: Row, level: str) -> tuple[str, ...]:
    """All places of a level that a ranker may name.

    Args:
        row: the bench case.
        level: one of `LEVELS`.

    Raises:
        ValueError: there is no such level.
    """
    if level == "place":
        return (*row.blocks, *row.sites)
    if level == "block":
        return row.blocks
    if level == "site":
        return row.sites
    if level == "layer":
        numbers = {number for number in row.layers if number >= 0}
        numbers |= {layer for layer, _, _ in map(_parsed, row.sites) if layer is not None}
        return tuple(f"L{number}" for number in sorted(numbers))
    if level == "head":
        counts: dict[str, int] = {}
        for by_layer in row.head_values.values():
            for layer, values in by_layer.items():
                counts[layer] = max(counts.get(layer, 0), len(values))
        return tuple(f"{layer}H{head}" for layer in sorted(counts) for head in range(counts[layer]))
    raise ValueError(f"{level!r} is not a level; the levels are {', '.join(LEVELS)}")


def coarse(place: str, known: frozenset[str]) -> str:
    """The name under which a place is known: itself, the block of a head, the fused block, or the site of heads."""
    if place in known:
        return place
    layer, head, what = _parsed(place)
    if layer is None:
        return place
    if not what:
        return f"L{layer}.heads" if head is not None else place
    whole = f"L{layer}.{what}"
    fused = f"L{layer}.QK"
    if whole not in known and what in ("Q", "K") and fused in known:
        return fused
    return whole


def at_level(row: Row, level: str, places: Iterable[str]) -> tuple[str | None, ...]:
    """Each place in the names of a level; None where the level does not hold it."""
    known = frozenset(candidates(row, level))
    if level == "layer":
        layers = dict(zip(row.blocks, row.layers, strict=False))
        return tuple(_layer(place, layers) for place in places)
    if level == "head":
        return tuple(_head(place) for place in places)
    named = (coarse(place, known) for place in places)
    return tuple(name if name in known else None for name in named)


def truth(row: Row, level: str) -> frozenset[str]:
    """The candidates of a level that name the fault's place rightly; empty where the level does not hold it."""
    known = set(candidates(row, level))
    return frozenset(name for name in at_level(row, level, row.places) if name in known and name is not None)


def scores_at(row: Row, level: str, order: Mapping[str, float]) -> dict[str, float]:
    """Candidate -> the largest score of what lies in it; minus infinity for what the order does not name."""
    found = dict.fromkeys(candidates(row, level), -math.inf)
    for name, score in zip(at_level(row, level, order), order.values(), strict=True):
        if name in found and score > found[name]:  # a NaN is not larger than anything
            found[name] = float(score)
    return found


@lru_cache(maxsize=4096)
def _parsed(place: str) -> tuple[int | None, int | None, str]:
    return parse_place(place)


def _layer(place: str, layers: Mapping[str, int]) -> str | None:
    layer = _parsed(place)[0]
    number = layers.get(place, -1) if layer is None else layer
    return f"L{number}" if number >= 0 else None


def _head(place: str) -> str | None:
    layer, head, _ = _parsed(place)
    return f"L{layer}H{head}" if layer is not None and head is not None else None
