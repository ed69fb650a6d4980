"""Readings of attention by layer and head, and how odd they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from attnscope.bench.rankers._readings import Reader, Usual
from attnscope.bench.row import Row

# Shares are compared by difference, sizes by ratio.
LAYER_READINGS = {
    "entropy": False,
    "padding_mass": False,
    "future_mass": False,
    "first_token_mass": False,
    "head_similarity": False,
    "largest_score": True,
}
HEAD_READINGS = {"entropy": False, "contribution": True}


@dataclass(frozen=True)
class UsualAttention:
    """What is usual for the attention's statistics, by layer and by head."""

    layers: tuple[Usual, ...]
    heads: tuple[Usual, ...]

    @classmethod
    def of(cls, bank: Sequence[Row]) -> UsualAttention:
        """From healthy rows."""
        return cls(
            tuple(Usual.of(bank, _by_layer(name), logarithmic=ratio) for name, ratio in LAYER_READINGS.items()),
            tuple(Usual.of(bank, _by_head(name), logarithmic=ratio) for name, ratio in HEAD_READINGS.items()),
        )

    def layer_distances(self, row: Row) -> dict[str, float]:
        """Layer -> the largest distance of its statistics."""
        return _largest(usual.oddness(row) for usual in self.layers)

    def head_distances(self, row: Row) -> dict[str, float]:
        """Head (`L1H2`) -> the largest distance of its statistics."""
        return _largest(usual.oddness(row) for usual in self.heads)


def _largest(distances: object) -> dict[str, float]:
    found: dict[str, float] = {}
    for by_place in distances:  # type: ignore[attr-defined]
        for place, z in by_place.items():
            found[place] = max(found.get(place, 0.0), abs(z))
    return found


def _by_layer(name: str) -> Reader:
    def read(row: Row) -> Mapping[str, float]:
        return row.layer_values.get(name, {})

    return read


def _by_head(name: str) -> Reader:
    def read(row: Row) -> Mapping[str, float]:
        values = row.head_values.get(name, {})
        return {f"{layer}H{head}": value for layer, heads in values.items() for head, value in enumerate(heads)}

    return read
