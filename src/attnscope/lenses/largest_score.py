"""How large the numbers get that each head's softmax receives."""

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
class LargestScore(Lens):
    """The largest number, by size, that each head's softmax receives from an allowed pair of tokens.

    **Measures** max |score| over real queries and allowed keys, after scale and bias (unit 1; differences of
    scores are in nats).

    **Reading it** below about 30 is usual. Above 100 is where published training runs clip the heads; growth
    that does not settle precedes divergence. Adding a constant to a row leaves the pattern as it was, so read
    `widest_row` as well: the difference between the largest and smallest score of one row, which decides how
    sharp the pattern can be.

    **Shapes** [layer, head]. Facts: `widest_row`: max over rows of (largest - smallest) per
    [layer][head]; `mean_row`: its mean; `saturated_share`: share of rows whose largest weight exceeds
    0.999 per [layer][head].

    **Cost** one forward pass, shared.

    **Reference** Kimi Team 2025, Kimi K2 (QK-Clip at 100), arXiv:2507.20534; Wortsman et al. 2023,
    Small-scale proxies for large-scale Transformer training instabilities, arXiv:2309.14322.
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("layer", "head")
    needs: ClassVar[tuple[str, ...]] = ("pattern",)

    def measure(self, probe: Probe) -> Reading:
        """The largest score of each head."""
        largest: list[Tensor | None] = []
        widest: list[Tensor | None] = []
        mean: list[Tensor | None] = []
        saturated: list[Tensor | None] = []
        for layer in rows(probe):
            scores, seen = score_cells(layer)
            if not bool(seen.any()):
                for found in (largest, widest, mean, saturated):
                    found.append(None)
                continue
            largest.append(torch.where(seen, scores.abs(), 0.0).amax((0, 2, 3)))
            due = seen.sum(-1) >= 2
            top = torch.where(seen, scores, -torch.inf).amax(-1)
            bottom = torch.where(seen, scores, torch.inf).amin(-1)
            width = torch.where(due, top - bottom, 0.0)
            widest.append(width.amax((0, 2)))
            mean.append(layer.mean(width, due) if bool(due.any()) else None)
            sharp = (layer.pattern.amax(-1) > 0.999).double()
            saturated.append(layer.mean(sharp, due) if bool(due.any()) else None)
        return heads_reading(
            self, probe, largest, why_none="no query of the first batch may see a key",
            facts={
                "widest_row": nested(widest), "mean_row": nested(mean), "saturated_share": nested(saturated),
            },
        )
