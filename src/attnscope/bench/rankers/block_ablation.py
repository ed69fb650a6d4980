"""The distance of what setting each block to zero does to the output from healthy runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.bench.rankers._by_block import FarthestFirst


@dataclass
class BlockAblation(FarthestFirst):
    """The distance of what setting each block to zero does to the output from healthy runs.

    **Suspicion**: the mean distance of the three oddest blocks, in spreads of the healthy runs.

    **Places**: the distance of each block; a site has the largest of its layer's attention blocks.

    **Reference**: Michel et al. 2019, arXiv:1905.10650; Ghanbari et al. 2023,
    Mutation-based Fault Localization of Deep Neural Networks, arXiv:2309.05067.
    """

    family: ClassVar[str] = "baseline"
    lenses: ClassVar[tuple[str, ...]] = ("block_ablation",)
    reading: ClassVar[str] = "block_ablation"
