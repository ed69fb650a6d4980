"""Readings of pairs of blocks, and what they say of each block."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from attnscope.bench.row import Row


def by_pair(row: Row) -> Mapping[str, float]:
    """Reads the couplings."""
    return row.pair_values


def per_block(distances: Mapping[str, float]) -> dict[str, float]:
    """Block -> root mean square of the distances of the pairs that it is in."""
    shared: dict[str, list[float]] = {}
    for pair, distance in distances.items():
        for block in pair.split(" "):
            shared.setdefault(block, []).append(distance)
    return {block: float(np.sqrt(np.mean(np.square(values)))) for block, values in shared.items()}
