"""Blocks by how many parameters they hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attnscope.bench.rankers import Ranker
from attnscope.bench.rankers._places import with_sites
from attnscope.bench.row import Row


@dataclass
class ParameterCount(Ranker):
    """Blocks by how many parameters they hold: the prior that a larger part has more room for a mistake.

    **Suspicion**: none; all rows are alike.

    **Places**: the number of parameters; a site has the largest of its layer's attention blocks.

    **Reference**: none.
    """

    def suspicion(self, row: Row) -> float:
        """Zero."""
        return 0.0

    def order(self, row: Row) -> Mapping[str, float]:
        """Parameters per block."""
        return with_sites(row, dict(zip(row.blocks, map(float, row.sizes), strict=True)))
