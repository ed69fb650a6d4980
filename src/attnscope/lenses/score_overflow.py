"""How near the scores come to the largest number that half precision holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attnscope.lenses import Lens
from attnscope.lenses._per_head import heads_reading, nested
from attnscope.lenses._rows import rows, score_cells
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class ScoreOverflow(Lens):
    """How near products and scores come to the largest number that half precision holds: 1 overflows.

    **Measures** max(|q.k|, |score|) over real queries and allowed keys, divided by the largest finite
    number of float16, 65504 (unit 1). Products are judged as they are computed: before the scale, when
    the model scales after the product.

    **Reading it** below 0.1 there is room for a factor of ten. From 1 on the product is infinite in float16,
    and two infinities in a row give NaN; bfloat16 never overflows here and pays with rounding, see
    `score_rounding`. A model that is trained in float16 under loss scaling has the same limit.

    **Shapes** [layer, head]. Facts: `largest_product`, `largest_score` per [layer][head]; `overflowing`:
    list of [layer, head] at or above 1; `mask_overflows`: layers whose mask is filled with a finite
    number that float16 cannot hold (-1e9, say), which becomes -inf there and turns rows without an
    allowed key into NaN.

    **Cost** one forward pass, shared.

    **Reference** Micikevicius et al. 2018, Mixed Precision Training, arXiv:1710.03740.
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("layer", "head")
    needs: ClassVar[tuple[str, ...]] = ("pattern",)

    def measure(self, probe: Probe) -> Reading:
        """The room left in each head."""
        limit = torch.finfo(torch.float16).max
        shares: list[Tensor | None] = []
        products: list[Tensor | None] = []
        largest: list[Tensor | None] = []
        overflowing: list[list[int]] = []
        masks: list[int] = []
        for layer in rows(probe):
            fills = [step.fill for step in layer.attention.mask if step.fill is not None]
            if any(limit < abs(fill) < float("inf") for fill in fills):
                masks.append(layer.attention.layer)
            scores, seen = score_cells(layer)
            if not bool(seen.any()):
                for found in (shares, products, largest):
                    found.append(None)
                continue
            top = torch.where(seen, scores.abs(), 0.0).amax((0, 2, 3))
            largest.append(top)
            raw = layer.tensors.raw_scores
            product = None
            if raw is not None:
                product = torch.where(seen, raw.detach().cpu().double().abs(), 0.0).amax((0, 2, 3))
                top = torch.maximum(top, product)
            products.append(product)
            shares.append(top / limit)
            overflowing += [[layer.attention.layer, int(head)] for head in (top >= limit).nonzero()[:, 0]]
        return heads_reading(
            self, probe, shares, why_none="no query of the first batch may see a key",
            facts={
                "largest_product": nested(products), "largest_score": nested(largest),
                "overflowing": overflowing, "mask_overflows": masks,
            },
        )
