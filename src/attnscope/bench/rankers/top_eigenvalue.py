"""The largest eigenvalue of each block"s Hessian, as it is: the largest first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.bench.rankers._by_block import LargestFirst


@dataclass
class TopEigenvalue(LargestFirst):
    """The largest eigenvalue of each block"s Hessian, as it is: the largest first.

    **Suspicion**: the largest eigenvalue.

    **Places**: the value of each block; a site has the largest of its layer"s attention blocks.

    **Reference**: Jahan & Rahman 2025, arXiv:2506.07871; Yao et al. 2020, PyHessian, arXiv:1912.07145.
    """

    family: ClassVar[str] = "curvature"
    lenses: ClassVar[tuple[str, ...]] = ("negative_share",)
    reading: ClassVar[str] = "block_top_eigenvalue"
