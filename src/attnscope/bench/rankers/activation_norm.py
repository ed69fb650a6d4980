"""The distance of the size of each block's output from healthy runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.bench.rankers._by_block import FarthestFirst


@dataclass
class ActivationNorm(FarthestFirst):
    """The distance of the size of each block's output from healthy runs.

    **Suspicion**: the mean distance of the three oddest blocks, in spreads of the healthy runs.

    **Places**: the distance of each block; a site has the largest of its layer's attention blocks.

    **Reference**: Rybakov et al. 2024, Methods of improving LLM training stability,
    arXiv:2410.16682 (output norms grow before divergence).
    """

    family: ClassVar[str] = "baseline"
    lenses: ClassVar[tuple[str, ...]] = ("activation_norm",)
    reading: ClassVar[str] = "activation_norm"
