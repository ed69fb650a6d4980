"""Families of readings, each as a distance from what is usual, place by place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median

import numpy as np

from attnscope.anatomy.blocks import ATTENTION_ROLES, parse_place
from attnscope.bench.learned import FAMILIES
from attnscope.bench.rankers._attention import UsualAttention
from attnscope.bench.rankers._invariants import shared, weighed, without_values
from attnscope.bench.rankers._pairs import by_pair, per_block
from attnscope.bench.rankers._places import peak
from attnscope.bench.rankers._readings import NORMAL, Array, Reader, Usual, by_block
from attnscope.bench.row import Row

# Reader of each family, and whether its numbers are compared by ratio.
_BLOCKS: Mapping[str, tuple[Reader, bool]] = {
    "gradient": (weighed("gradient_norm"), True),
    "gradient_variance": (weighed("gradient_variance", 2), True),
    "update": (shared("update_to_weight"), True),
    "turn": (by_block("turn"), True),
    "activation": (without_values("activation_norm"), True),
    "ablation": (by_block("block_ablation"), True),
    "curvature": (by_block("relative_curvature"), True),
    "negative_share": (by_block("negative_share"), False),
    "preconditioned": (shared("preconditioned_top_eigenvalue"), True),
}
LEAST_SPREAD = 0.1  # of a peak, which is on a logarithmic scale
_ATTENTION = frozenset(role.value for role in ATTENTION_ROLES)


@dataclass(frozen=True)
class UsualFamilies:
    """What is usual for every family."""

    blocks: Mapping[str, Usual]
    pairs: Usual
    attention: UsualAttention
    bank: tuple[Row, ...] = field(default=(), repr=False)
    known: dict[str, tuple[tuple[str, ...], Array]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, bank: Sequence[Row]) -> UsualFamilies:
        """From healthy rows."""
        blocks = {
            family: Usual.of(bank, reader, logarithmic=ratio) for family, (reader, ratio) in _BLOCKS.items()
        }
        return cls(blocks, Usual.of(bank, by_pair), UsualAttention.of(bank), tuple(bank))

    def features(self, row: Row) -> tuple[tuple[str, ...], Array]:
        """Blocks, sites and heads of a row, and ln(1 + distance) of each in every family, then 1 for sites."""
        if row.key not in self.known:
            self.known[row.key] = self._features(row)
        return self.known[row.key]

    def peaks(self, row: Row) -> Array:
        """How odd the oddest blocks of a row are, family by family, in spreads of the same on healthy rows."""
        middle, spread = self._usual_peaks
        standard: Array = (self._peaks(row) - middle) / spread
        return standard

    def _peaks(self, row: Row) -> Array:
        of_blocks = self.features(row)[1][: len(row.blocks)]
        return np.array([peak(of_blocks[:, column]) for column in range(len(FAMILIES))])

    @cached_property
    def _usual_peaks(self) -> tuple[Array, Array]:
        """Median and spread of every family's peak on healthy rows; the spread of a family is never taken for tiny."""
        if not self.bank:
            return np.zeros(len(FAMILIES)), np.ones(len(FAMILIES))
        seen = np.array([self._peaks(row) for row in self.bank])
        middle = np.median(seen, 0)
        return middle, np.maximum(NORMAL * np.median(np.abs(seen - middle), 0), LEAST_SPREAD)

    def _features(self, row: Row) -> tuple[tuple[str, ...], Array]:
        columns = {family: _sizes(_local(usual.oddness(row))) for family, usual in self.blocks.items()}
        columns["coupling"] = per_block(_local(self.pairs.oddness(row)))
        heads, layers = self.attention.head_distances(row), self.attention.layer_distances(row)
        columns["attention"] = {**_of_layers(row, layers), **heads}
        places = (*row.blocks, *row.sites, *heads)
        matrix = np.zeros((len(places), len(FAMILIES) + 1))
        for column, family in enumerate(FAMILIES):
            found = columns[family]
            matrix[:, column] = [found.get(place, 0.0) for place in places]
        matrix = np.log1p(matrix)
        _borrow(row, matrix)
        return places, matrix


def _borrow(row: Row, matrix: Array) -> None:
    """A site has the readings of the oddest attention block of its layer, and says so in the last column."""
    total = matrix.sum(1)
    oddest: dict[int, int] = {}
    for index, (role, layer) in enumerate(zip(row.roles, row.layers, strict=True)):
        if role in _ATTENTION and (layer not in oddest or total[index] > total[oddest[layer]]):
            oddest[layer] = index
    for index, site in enumerate(row.sites, start=len(row.blocks)):
        matrix[index, -1] = 1.0
        number = parse_place(site)[0]
        if number in oddest:
            matrix[index, :-1] = np.maximum(matrix[index, :-1], matrix[oddest[number], :-1])


def _local(distances: Mapping[str, float]) -> dict[str, float]:
    """Distances beyond what all places share: another learning rate shifts every block, a mistake some."""
    finite = [z for z in distances.values() if math.isfinite(z)]
    middle = median(finite) if finite else 0.0
    return {place: z - middle for place, z in distances.items()}


def _sizes(distances: Mapping[str, float]) -> dict[str, float]:
    return {place: abs(z) for place, z in distances.items()}


def _of_layers(row: Row, distances: Mapping[str, float]) -> dict[str, float]:
    """What is odd about a layer's attention, at its attention blocks and sites."""
    found = {
        block: distances[f"L{layer}"]
        for block, role, layer in zip(row.blocks, row.roles, row.layers, strict=True)
        if role in _ATTENTION and f"L{layer}" in distances
    }
    for site in row.sites:
        name = f"L{parse_place(site)[0]}"
        if name in distances:
            found[site] = distances[name]
    return found
