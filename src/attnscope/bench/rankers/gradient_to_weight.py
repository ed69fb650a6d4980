"""The norm of each block"s gradient over the norm of its weights: the largest first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.bench.rankers._by_block import LargestFirst


@dataclass
class GradientToWeight(LargestFirst):
    """The norm of each block"s gradient over the norm of its weights: the largest first.

    **Suspicion**: the largest ratio.

    **Places**: the value of each block; a site has the largest of its layer"s attention blocks.

    **Reference**: Bottou 2012, Stochastic gradient descent tricks (the ratio of step to weight).
    """

    family: ClassVar[str] = "baseline"
    lenses: ClassVar[tuple[str, ...]] = ("gradient_norm", "gradient_to_weight")  # they share the gradient
    reading: ClassVar[str] = "gradient_to_weight"
