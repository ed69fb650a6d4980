"""The distance of the variance of each block's gradient over batches from healthy runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.bench.rankers._by_block import FarthestFirst


@dataclass
class GradientVariance(FarthestFirst):
    """The distance of the variance of each block's gradient over batches from healthy runs.

    **Suspicion**: the mean distance of the three oddest blocks, in spreads of the healthy runs.

    **Places**: the distance of each block; a site has the largest of its layer's attention blocks.

    **Reference**: Liu et al. 2020, Understanding Why Neural Networks Generalize Well Through GSNR, arXiv:2001.07384.
    """

    family: ClassVar[str] = "baseline"
    lenses: ClassVar[tuple[str, ...]] = ("gradient_variance",)
    reading: ClassVar[str] = "gradient_variance"
