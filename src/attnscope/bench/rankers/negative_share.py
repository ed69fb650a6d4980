"""The distance of the share of each block's curvature that points down from healthy runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.bench.rankers._by_block import FarthestFirst


@dataclass
class NegativeShare(FarthestFirst):
    """The distance of the share of each block's curvature that points down from healthy runs.

    **Suspicion**: the mean distance of the three oddest blocks, in spreads of the healthy runs.

    **Places**: the distance of each block; a site has the largest of its layer's attention blocks.

    **Reference**: Ormaniec, Dangel & Singh 2024, arXiv:2410.10986 (indefinite parts of the attention's Hessian).
    """

    family: ClassVar[str] = "curvature"
    lenses: ClassVar[tuple[str, ...]] = ("negative_share",)
    reading: ClassVar[str] = "negative_share"
    logarithmic: ClassVar[bool] = False
