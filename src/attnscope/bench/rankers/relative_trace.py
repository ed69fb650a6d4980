"""The distance of each block's scale-free curvature from healthy runs, above and below."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.bench.rankers._by_block import FarthestFirst


@dataclass
class RelativeTrace(FarthestFirst):
    """The distance of each block's scale-free curvature from healthy runs, above and below.

    **Suspicion**: the mean distance of the three oddest blocks, in spreads of the healthy runs.

    **Places**: the distance of each block; a site has the largest of its layer's attention blocks.

    **Reference**: Tsuzuku, Sato & Sugiyama 2020, Normalized Flat Minima, arXiv:1901.04653 (the scale-free form).
    """

    family: ClassVar[str] = "curvature"
    lenses: ClassVar[tuple[str, ...]] = ("block_trace", "relative_curvature")  # they share their products
    reading: ClassVar[str] = "relative_curvature"
