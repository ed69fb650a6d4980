"""Places in an order drawn at random."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from attnscope.bench.rankers import Ranker
from attnscope.bench.row import Row


@dataclass
class RandomOrder(Ranker):
    """Places in an order drawn at random: what guessing gives.

    **Suspicion**: a random number.

    **Places**: a random number each, from the row's key: the same row is always given the same order.

    **Reference**: none.
    """

    def suspicion(self, row: Row) -> float:
        """A number in [0, 1)."""
        return float(_generator(row).random())

    def order(self, row: Row) -> Mapping[str, float]:
        """A number in [0, 1) for each block, site and head."""
        heads = [
            f"{layer}H{head}"
            for values in list(row.head_values.values())[:1]
            for layer, found in values.items()
            for head in range(len(found))
        ]
        places = [*row.blocks, *row.sites, *heads]
        return dict(zip(places, _generator(row).random(len(places) + 1)[1:].tolist(), strict=True))


def _generator(row: Row) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(row.key.encode()))
