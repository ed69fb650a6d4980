"""The distance of each block's step over its weights from healthy runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.bench.rankers._by_block import FarthestFirst


@dataclass
class UpdateRatio(FarthestFirst):
    """The distance of each block's step over its weights from healthy runs.

    **Suspicion**: the mean distance of the three oddest blocks, in spreads of the healthy runs.

    **Places**: the distance of each block; a site has the largest of its layer's attention blocks.

    **Reference**: Bottou 2012, Stochastic gradient descent tricks.
    """

    family: ClassVar[str] = "baseline"
    lenses: ClassVar[tuple[str, ...]] = ("update_to_weight",)
    reading: ClassVar[str] = "update_to_weight"
