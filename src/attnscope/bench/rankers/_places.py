"""What a ranker that knows blocks only says of sites: shared by all of them, so that none is favoured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from attnscope.anatomy.blocks import ATTENTION_ROLES, Role, parse_place
from attnscope.bench.rankers._readings import Array
from attnscope.bench.row import Row

_ATTENTION = frozenset(role.value for role in ATTENTION_ROLES)
STRONGEST = 3


def with_sites(row: Row, scores: Mapping[str, float]) -> dict[str, float]:
    """The scores of blocks, and for each site the largest score of its layer's attention blocks.

    The block comes just before the sites that borrow from it: what was read is the block. A layer without
    attention blocks lends its sites the largest score of any of its blocks; the site `positions` has that of the
    blocks of positions. Sites of the whole model (`data`, `loss`) have none: no block stands for them.
    """
    attention: dict[int, float] = {}
    anywhere: dict[int, float] = {}
    positions: list[float] = []
    for block, role, layer in zip(row.blocks, row.roles, row.layers, strict=True):
        if block not in scores:
            continue
        if role == Role.POSITIONS.value:
            positions.append(scores[block])
        if layer >= 0:
            anywhere[layer] = max(anywhere.get(layer, -math.inf), scores[block])
            if role in _ATTENTION:
                attention[layer] = max(attention.get(layer, -math.inf), scores[block])
    found = dict(scores)
    for site in row.sites:
        number = layer_of(site)
        if number is not None and number in anywhere:
            found.setdefault(site, _just_below(attention.get(number, anywhere[number])))
        elif site == "positions" and positions:
            found.setdefault(site, _just_below(max(positions)))
    return found


@lru_cache(maxsize=4096)
def layer_of(place: str) -> int | None:
    """The layer that a site's name holds."""
    return parse_place(place)[0]


def _just_below(score: float) -> float:
    return math.nextafter(score, -math.inf)


def peak(scores: Array) -> float:
    """How odd the oddest places are: the mean of the three largest scores, so that one noisy block is not all."""
    finite = scores[np.isfinite(scores)]
    if not finite.size:
        return 0.0
    return float(np.sort(finite)[-STRONGEST:].mean())
