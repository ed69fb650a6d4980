"""Whether the keys that get weight are the keys that the mask allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attnscope.lenses import Lens
from attnscope.lenses._per_head import heads_reading, nested
from attnscope.lenses._rows import rows
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class PatternSupport(Lens):
    """The largest weight that any query gives to a key that the mask forbids: zero by identity.

    **Measures** the largest pattern entry over real queries and forbidden keys (unit 1).

    **Reading it** 0 when the mask works. Positive: the number that fills the mask is too small, or the
    mask is applied where it cannot work (`row_sums` tells). The other half of the identity is in
    `dead_share`: allowed keys with a weight of exactly zero; a few are normal in sharp trained heads,
    most of them mean that the scores saturate the softmax.

    **Shapes** [layer, head]; NaN where no mask was found. Facts: `forbidden_mass`: mean weight of a row on
    forbidden keys per [layer][head]; `dead_share`: share of allowed keys of exactly zero weight per
    [layer][head]; `rows_without_a_key`: per layer, how many queries may see nothing at all.

    **Cost** one forward pass, shared.

    **Reference** none needed: an identity.
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("layer", "head")
    needs: ClassVar[tuple[str, ...]] = ("pattern",)

    def measure(self, probe: Probe) -> Reading:
        """The largest forbidden weight of each head."""
        largest: list[Tensor | None] = []
        mass: list[Tensor | None] = []
        dead: list[Tensor | None] = []
        empty: list[int] = []
        for layer in rows(probe):
            empty.append(int((~layer.allowed.any(-1))[:, 0].sum()))
            if not bool(layer.counts.any()):
                for found in (largest, mass, dead):
                    found.append(None)
                continue
            zero = (layer.pattern == 0) & layer.allowed & layer.counts[..., None]
            allowed = (layer.allowed & layer.counts[..., None]).sum((0, 2, 3))
            dead.append(zero.sum((0, 2, 3)).double() / allowed.clamp(min=1))
            if layer.tensors.allowed is None:
                largest.append(None)
                mass.append(None)
                continue
            forbidden = torch.where(layer.allowed, 0.0, layer.pattern)
            largest.append(layer.largest(forbidden.amax(-1)))
            mass.append(layer.mean(forbidden.sum(-1)))
        return heads_reading(
            self, probe, largest, why_none="no attention has a mask",
            facts={
                "forbidden_mass": nested(mass), "dead_share": nested(dead), "rows_without_a_key": empty,
            },
        )
