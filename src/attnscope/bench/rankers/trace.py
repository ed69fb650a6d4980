"""The trace of each block"s Hessian, as it is: the largest first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.bench.rankers._by_block import LargestFirst


@dataclass
class Trace(LargestFirst):
    """The trace of each block"s Hessian, as it is: the largest first.

    **Suspicion**: the largest trace.

    **Places**: the value of each block; a site has the largest of its layer"s attention blocks.

    **Reference**: Yao et al. 2020, PyHessian, arXiv:1912.07145.
    """

    family: ClassVar[str] = "curvature"
    lenses: ClassVar[tuple[str, ...]] = ("block_trace",)
    reading: ClassVar[str] = "block_trace"
