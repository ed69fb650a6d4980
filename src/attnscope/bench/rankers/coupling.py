"""The distance of the couplings of each block from healthy runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from attnscope.bench.rankers import Ranker
from attnscope.bench.rankers._pairs import by_pair, per_block
from attnscope.bench.rankers._places import peak, with_sites
from attnscope.bench.rankers._readings import Usual
from attnscope.bench.row import Row


@dataclass
class Coupling(Ranker):
    """The distance of the couplings of each block from healthy runs, above and below.

    **Suspicion**: the mean distance of the three oddest blocks, in spreads of the healthy runs.

    **Places**: the root mean square of the distances of the block's couplings, by ratio; a coupling that is not
    defined because a block is flat is as odd as can be. Blocks outside attention have none. A site has the largest
    of its layer's attention blocks.

    **Reference**: Jahan & Rahman 2025, arXiv:2506.07871 (interaction of attention parameters); the scale-free form
    |H_ab| / sqrt(|H_aa| |H_bb|) is this package's.
    """

    family: ClassVar[str] = "curvature"
    lenses: ClassVar[tuple[str, ...]] = ("coupling",)
    usual: Usual | None = field(default=None, repr=False)

    def fit(self, bank: Sequence[Row]) -> None:
        """Median and spread per pair."""
        self.usual = Usual.of(bank, by_pair)

    def suspicion(self, row: Row) -> float:
        """The mean distance of the three oddest blocks."""
        return peak(np.array(list(self._distances(row).values()), dtype=float))

    def order(self, row: Row) -> Mapping[str, float]:
        """The distance of each block."""
        return with_sites(row, self._distances(row))

    def _distances(self, row: Row) -> dict[str, float]:
        return per_block((self.usual or Usual.of((), by_pair)).oddness(row))
