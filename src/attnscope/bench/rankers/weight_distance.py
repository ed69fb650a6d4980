"""The distance of how far each block has moved from its start from healthy runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.bench.rankers._by_block import FarthestFirst


@dataclass
class WeightDistance(FarthestFirst):
    """The distance of how far each block has moved from its start from healthy runs.

    **Suspicion**: the mean distance of the three oddest blocks, in spreads of the healthy runs.

    **Places**: the distance of each block; a site has the largest of its layer's attention blocks.

    **Reference**: Nagarajan & Kolter 2019, arXiv:1901.01672 (distance from initialisation).
    """

    family: ClassVar[str] = "baseline"
    lenses: ClassVar[tuple[str, ...]] = ()
    reading: ClassVar[str] = "weight_distance"
