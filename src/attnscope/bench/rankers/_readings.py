"""Readings of blocks, pairs, layers and heads as arrays, and what is usual for them on healthy rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import numpy.typing as npt

from attnscope.bench.row import Row

Array = npt.NDArray[np.float64]
Reader = Callable[[Row], Mapping[str, float]]

CAP = 100.0
LINEAR_BELOW = 1e-3  # of a place's usual size: smaller values count as zero on the logarithmic scale
PRIOR = 3.0  # healthy rows that the spread over all places is worth beside a place's own
ALONE = {True: 1.0, False: 0.1}  # the spread when there is one healthy row: a factor of e, or a tenth of a share
LEAST = {True: 0.05, False: 0.01}
NORMAL = 1.4826  # from a median absolute deviation to a standard deviation, for normal numbers


def by_block(lens: str) -> Reader:
    """Reads a lens per block; nothing where it was not taken."""

    def read(row: Row) -> Mapping[str, float]:
        values = row.block_values.get(lens)
        return {} if values is None else dict(zip(row.blocks, values, strict=True))

    return read


@dataclass(frozen=True)
class Usual:
    """What is usual for a reading, place by place.

    Attributes:
        read: place -> number of a row.
        logarithmic: whether numbers are compared by ratio. Numbers of both signs may be: the scale is linear
            below a thousandth of what is usual, so a block that died is a long way off and not at minus infinity.
        size: place -> the median size on healthy rows.
        middle, spread: place -> median and spread on that scale.
    """

    read: Reader
    logarithmic: bool
    size: Mapping[str, float]
    middle: Mapping[str, float]
    spread: Mapping[str, float]

    @classmethod
    def of(cls, bank: Sequence[Row], read: Reader, *, logarithmic: bool = True) -> Usual:
        """From healthy rows."""
        seen: dict[str, list[float]] = {}
        for row in bank:
            for place, value in read(row).items():
                if math.isfinite(value):
                    seen.setdefault(place, []).append(float(value))
        size = {place: median(map(abs, values)) for place, values in seen.items()}
        scaled = {
            place: [math.asinh(value / _unit(size[place])) for value in values] if logarithmic else values
            for place, values in seen.items()
        }
        middle = {place: median(values) for place, values in scaled.items()}
        own = {
            place: NORMAL * median(abs(value - middle[place]) for value in values)
            for place, values in scaled.items()
            if len(values) > 1
        }
        pooled = max(median(own.values()) if own else ALONE[logarithmic], LEAST[logarithmic])
        spread = {}
        for place, values in scaled.items():
            told = len(values) - 1
            spread[place] = math.sqrt((told * own.get(place, 0.0) ** 2 + PRIOR * pooled**2) / (told + PRIOR))
        return cls(read, logarithmic, size, middle, spread)

    def oddness(self, row: Row) -> dict[str, float]:
        """Place -> signed distance from what is usual, in spreads.

        A number that is not one where healthy rows have one is as odd as can be; a place that healthy rows do
        not have is left out. Without any healthy row places are compared with each other.
        """
        values = self.read(row)
        if not self.middle:
            return _among_themselves(values, self.logarithmic)
        found = {}
        for place, value in values.items():
            if place not in self.middle:
                continue
            if not math.isfinite(value):
                found[place] = CAP
                continue
            scaled = math.asinh(value / _unit(self.size[place])) if self.logarithmic else value
            z = (scaled - self.middle[place]) / self.spread[place]
            found[place] = min(max(z, -CAP), CAP)
        return found


def _scaled(values: Array, size: float, logarithmic: bool) -> Array:
    if not logarithmic:
        return values
    scaled: Array = np.arcsinh(values / _unit(size))
    return scaled


def _unit(size: float) -> float:
    return LINEAR_BELOW * size if size > 0 else 1e-12


def _among_themselves(values: Mapping[str, float], logarithmic: bool) -> dict[str, float]:
    finite = {place: value for place, value in values.items() if np.isfinite(value)}
    if not finite:
        return {}
    numbers = np.array(list(finite.values()), dtype=float)
    scaled = _scaled(numbers, float(np.median(np.abs(numbers))), logarithmic)
    middle = float(np.median(scaled))
    spread = max(NORMAL * float(np.median(np.abs(scaled - middle))), LEAST[logarithmic])
    return {
        place: float(np.clip((value - middle) / spread, -CAP, CAP))
        for place, value in zip(finite, scaled, strict=True)
    }
