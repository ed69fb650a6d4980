"""The two ways to rank blocks by one reading: as it is, and by its distance from what is usual."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from attnscope.bench.rankers import Ranker
from attnscope.bench.rankers._places import peak, with_sites
from attnscope.bench.rankers._readings import Usual, by_block
from attnscope.bench.row import Row


@dataclass
class LargestFirst(Ranker):
    """Ranks blocks by a reading as it is: the largest first, whatever is usual."""

    reading: ClassVar[str]

    def suspicion(self, row: Row) -> float:
        """The largest value; infinite when a value is not finite."""
        values = np.array(list(by_block(self.reading)(row).values()), dtype=float)
        if not values.size or np.isnan(values).all():
            return 0.0
        return float(np.nanmax(values))

    def order(self, row: Row) -> Mapping[str, float]:
        """The value of each block; sites have the largest of their layer's attention blocks."""
        values = by_block(self.reading)(row)
        return with_sites(row, {block: value for block, value in values.items() if not np.isnan(value)})


@dataclass
class FarthestFirst(Ranker):
    """Ranks blocks by how far a reading is from what healthy rows have there, above or below."""

    reading: ClassVar[str]
    logarithmic: ClassVar[bool] = True
    usual: Usual | None = field(default=None, repr=False)

    def fit(self, bank: Sequence[Row]) -> None:
        """Median and spread per block."""
        self.usual = Usual.of(bank, by_block(self.reading), logarithmic=self.logarithmic)

    def suspicion(self, row: Row) -> float:
        """The mean distance of the three oddest blocks."""
        return peak(np.array(list(self._distances(row).values()), dtype=float))

    def order(self, row: Row) -> Mapping[str, float]:
        """The distance of each block; sites have the largest of their layer's attention blocks."""
        return with_sites(row, self._distances(row))

    def _distances(self, row: Row) -> dict[str, float]:
        usual = self.usual or Usual.of((), by_block(self.reading), logarithmic=self.logarithmic)
        return {block: abs(z) for block, z in usual.oddness(row).items()}
