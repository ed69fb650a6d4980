"""How much attention each head pays to later positions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attnscope.anatomy.blocks import Attention, Kind
from attnscope.lenses import Lens
from attnscope.lenses._per_head import heads_reading, nested
from attnscope.lenses._rows import rows
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class FutureMass(Lens):
    """The share of attention on later positions: zero by identity where the model is causal.

    **Measures** the mean over real queries that have a future of the weight on keys after the query's own
    position (unit 1). Positions are aligned at the end when there are more keys than queries.

    **Reading it** in a causal attention exactly 0. About one half without a mask; small and positive when the
    mask is off by one or fills with too small a number (`by_offset` tells these apart: an off-by-one mask
    leaks at distance 1 only, a small fill leaks at all). In an encoder any value is right. Forbidden self
    attention shows as `self_mass` 0.

    **Shapes** [layer, head]; NaN for cross-attention and single queries. Facts: `largest`: largest weight
    on one future key per [layer][head]; `by_offset`: mean weight on the key 1, 2, ... positions ahead,
    per layer (at most `offsets`); `furthest`: the furthest distance with any weight per layer;
    `self_mass`: mean weight on the own position per [layer][head]; `causal`: whether it should be causal
    per layer (stated, else what the trace saw, else None).

    **Cost** one forward pass, shared.

    **Reference** none needed: an identity.
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("layer", "head")
    needs: ClassVar[tuple[str, ...]] = ("pattern",)

    offsets: int = 8

    def measure(self, probe: Probe) -> Reading:
        """The mass on the future of each head."""
        means: list[Tensor | None] = []
        largest: list[Tensor | None] = []
        own: list[Tensor | None] = []
        by_offset: list[list[float] | None] = []
        furthest: list[int | None] = []
        causal: list[bool | None] = []
        for layer in rows(probe):
            n_queries, n_keys = layer.pattern.shape[2:]
            causal.append(expected_causal(probe.expects.causal, layer.attention))
            if layer.attention.kind is not Kind.SELF or n_queries < 2 or n_keys < n_queries:
                for found in (means, largest, own):
                    found.append(None)
                by_offset.append(None)
                furthest.append(None)
                continue
            distance = torch.arange(n_keys) - torch.arange(n_queries)[:, None] - (n_keys - n_queries)
            due = layer.counts & (distance > 0).any(-1)
            ahead = torch.where((distance > 0) & layer.counts[..., None], layer.pattern, 0.0)
            means.append(ahead.sum(-1).sum((0, 2)) / due.sum((0, 2)).clamp(min=1))
            largest.append(ahead.amax((0, 2, 3)))
            offsets = range(1, min(self.offsets, n_queries - 1) + 1)
            by_offset.append([float(ahead[:, :, distance == offset].mean()) for offset in offsets])
            reached = ahead.sum((0, 1)) > 0
            furthest.append(int(distance[reached].max()) if bool(reached.any()) else 0)
            diagonal = torch.where((distance == 0) & layer.counts[..., None], layer.pattern, 0.0)
            own.append(diagonal.sum((0, 2, 3)) / layer.counts.sum((0, 2)).clamp(min=1))
        return heads_reading(
            self, probe, means, why_none="no attention relates a sequence to itself",
            facts={
                "largest": nested(largest), "by_offset": by_offset, "furthest": furthest,
                "self_mass": nested(own), "causal": causal,
            },
        )


def expected_causal(stated: bool | Mapping[int, bool] | None, attention: Attention) -> bool | None:
    """Whether the author wants this attention causal; what the trace saw when nothing is stated."""
    if isinstance(stated, Mapping):
        return stated.get(attention.layer)
    if stated is not None:
        return bool(stated)
    return True if attention.causal_source else None
