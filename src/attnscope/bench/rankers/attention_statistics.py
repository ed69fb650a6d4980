"""The distance of the attention's statistics from healthy runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from attnscope.anatomy.blocks import ATTENTION_ROLES, parse_place
from attnscope.bench.rankers import Ranker
from attnscope.bench.rankers._attention import UsualAttention
from attnscope.bench.rankers._places import peak
from attnscope.bench.row import Row

_ATTENTION = frozenset(role.value for role in ATTENTION_ROLES)


@dataclass
class AttentionStatistics(Ranker):
    """The distance of the attention's statistics from healthy runs: entropy, mass on padding, future and first
    token, largest score, likeness of heads.

    **Suspicion**: the mean distance of the three oddest layers.

    **Places**: every attention block and every site of a layer has the largest distance of the layer's statistics;
    a head has the largest of its own entropy and contribution.

    **Reference**: Zhai et al. 2023, Stabilizing Transformer Training by Preventing Attention Entropy Collapse,
    arXiv:2303.06296; Michel et al. 2019, arXiv:1905.10650.
    """  # noqa: D205  # the first sentence is one line to a reader

    family: ClassVar[str] = "baseline"
    lenses: ClassVar[tuple[str, ...]] = (
        "entropy", "padding_mass", "future_mass", "largest_score", "head_similarity", "first_token_mass",
        "head_entropy", "head_contribution",
    )  # fmt: skip
    usual: UsualAttention | None = field(default=None, repr=False)

    def fit(self, bank: Sequence[Row]) -> None:
        """Median and spread per layer and per head."""
        self.usual = UsualAttention.of(bank)

    def suspicion(self, row: Row) -> float:
        """The mean distance of the three oddest layers."""
        return peak(np.array(list(self._usual.layer_distances(row).values()), dtype=float))

    def order(self, row: Row) -> Mapping[str, float]:
        """The distance of the layer, and of each head."""
        layers = self._usual.layer_distances(row)
        found = dict(self._usual.head_distances(row))
        for block, role, layer in zip(row.blocks, row.roles, row.layers, strict=True):
            if role in _ATTENTION and f"L{layer}" in layers:
                found[block] = layers[f"L{layer}"]
        for site in row.sites:
            name = f"L{parse_place(site)[0]}"
            if name in layers:
                found[site] = layers[name]
        return found

    @property
    def _usual(self) -> UsualAttention:
        return self.usual or UsualAttention.of(())
