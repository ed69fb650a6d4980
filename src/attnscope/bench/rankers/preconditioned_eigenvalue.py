"""The distance of each block's largest eigenvalue, as Adam sees it, from healthy runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.bench.rankers._by_block import FarthestFirst


@dataclass
class PreconditionedEigenvalue(FarthestFirst):
    """The distance of each block's largest eigenvalue, as Adam sees it, from healthy runs.

    **Suspicion**: the mean distance of the three oddest blocks, in spreads of the healthy runs.

    **Places**: the distance of each block; a site has the largest of its layer's attention blocks.

    **Reference**: Cohen et al. 2022, Adaptive Gradient Methods at the Edge of Stability, arXiv:2207.14484.
    """

    family: ClassVar[str] = "curvature"
    lenses: ClassVar[tuple[str, ...]] = ("preconditioned_top_eigenvalue",)
    reading: ClassVar[str] = "preconditioned_top_eigenvalue"
