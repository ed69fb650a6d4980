"""How spread out each head's attention is, as a share of the most it could be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attnscope.lenses import Lens
from attnscope.lenses._per_head import heads_reading, nested
from attnscope.lenses._rows import Rows, rows
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class AttentionEntropy(Lens):
    """How spread out each head's attention is: 0 looks at one token, 1 looks at all alike.

    **Measures** the mean over real queries of -sum_j p_j ln p_j / ln n, where n is the number of keys that
    the mask allows that query (unit 1). Rows are normalised first, so a pattern that does not sum to one is
    judged by its shape; `row_sums` judges the sum. Queries that may see one key only say nothing and are
    left out.

    **Reading it** healthy models hold heads of every value between 0.05 and 0.98, untrained ones sit near 1.
    Near 0 in most heads of a layer while the loss stalls: entropy collapse (compare `largest_score`). Exactly
    1 in a trained model: queries or keys are zero, or the scores never reach the softmax. Confused with
    `entropy_floor`, which says how low the entropy could be given the size of the scores.

    **Shapes** [layer, head]. Facts: `lowest`, `highest`, `spread` (standard deviation) over rows per
    [layer][head]; `collapsed_share`: share of rows under 0.05; `n_keys`: mean number of allowed keys per
    layer.

    **Cost** one forward pass, shared; memory of one pattern in float64.

    **Reference** Zhai et al. 2023, Stabilizing Transformer Training by Preventing Attention Entropy Collapse,
    arXiv:2303.06296.
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("layer", "head")
    needs: ClassVar[tuple[str, ...]] = ("pattern",)

    def measure(self, probe: Probe) -> Reading:
        """The entropy of each head."""
        means: list[Tensor | None] = []
        lowest: list[Tensor | None] = []
        highest: list[Tensor | None] = []
        spread: list[Tensor | None] = []
        collapsed: list[Tensor | None] = []
        n_keys: list[float] = []
        for layer in rows(probe):
            share, due = entropy_share(layer)
            n_keys.append(float(layer.n_allowed.double()[layer.counts].mean()) if layer.counts.any() else 0.0)
            if not bool(due.any()):
                for found in (means, lowest, highest, spread, collapsed):
                    found.append(None)
                continue
            mean = layer.mean(share, due)
            means.append(mean)
            masked = torch.where(due, share, torch.nan)
            lowest.append(torch.where(due, share, torch.inf).amin((0, 2)))
            highest.append(torch.where(due, share, -torch.inf).amax((0, 2)))
            spread.append(((masked - mean[:, None]) ** 2).nanmean((0, 2)).sqrt())
            collapsed.append(layer.mean((share < 0.05).double(), due))
        return heads_reading(
            self, probe, means, why_none="no query may see two keys, so there is nothing to spread over",
            facts={
                "lowest": nested(lowest), "highest": nested(highest), "spread": nested(spread),
                "collapsed_share": nested(collapsed), "n_keys": n_keys,
            },
        )


def entropy_share(layer: Rows) -> tuple[Tensor, Tensor]:
    """Entropy over ln n per [batch, head, query], and where it is defined: rows that may see two keys."""
    total = layer.pattern.sum(-1, keepdim=True)
    normal = layer.pattern / torch.where(total == 0, torch.ones_like(total), total)
    entropy = torch.special.entr(normal).sum(-1)
    n_allowed = layer.n_allowed.double()
    due = layer.counts & (n_allowed >= 2)
    return entropy / n_allowed.clamp(min=2).log(), due
