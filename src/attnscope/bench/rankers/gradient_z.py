"""The distance of each block's gradient norm from what healthy runs have there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.bench.rankers._by_block import FarthestFirst


@dataclass
class GradientZ(FarthestFirst):
    """The distance of each block's gradient norm from what healthy runs have there.

    **Suspicion**: the mean distance of the three oddest blocks, in spreads of the healthy runs.

    **Places**: the distance of each block; a site has the largest of its layer's attention blocks.

    **Reference**: none known; the healthy-referenced form of the gradient norm, by ratio, above and below.
    """

    family: ClassVar[str] = "baseline"
    lenses: ClassVar[tuple[str, ...]] = ("gradient_norm",)
    reading: ClassVar[str] = "gradient_norm"
