"""The norm of each block"s gradient: the largest first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.bench.rankers._by_block import LargestFirst


@dataclass
class GradientNorm(LargestFirst):
    """The norm of each block"s gradient: the largest first.

    **Suspicion**: the largest norm.

    **Places**: the value of each block; a site has the largest of its layer"s attention blocks.

    **Reference**: Jahan & Rahman 2025, arXiv:2506.07871, whose baseline it is.
    """

    family: ClassVar[str] = "baseline"
    lenses: ClassVar[tuple[str, ...]] = ("gradient_norm",)
    reading: ClassVar[str] = "gradient_norm"
