"""How many independent ways of looking a head's pattern holds."""

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
class PatternRank(Lens):
    """How many independent ways of looking a head's pattern holds: 1 when all queries look alike.

    **Measures** the effective rank exp(-sum_i t_i ln t_i) of the pattern matrix of each example, t_i being
    its singular values divided by their sum; mean over examples (unit 1, between 1 and the smaller side).

    **Reading it** 1 means that every query attends alike (uniform attention, or a column of one token);
    a diagonal pattern reaches the number of queries. Long texts give larger numbers, so compare heads of
    one model on one batch, or read `share`. A causal mask alone gives a high rank: the mask is not learnt.

    **Shapes** [layer, head]; NaN for attentions of a single query. Facts: `share`: the rank over the smaller
    number of real queries and keys, per [layer][head]; `stable_rank`: squared Frobenius over squared spectral
    norm.

    **Cost** one forward pass, shared, and one singular value decomposition per head and example (at most
    `examples` of them).

    **Reference** Roy & Vetterli 2007, The effective rank: a measure of effective dimensionality, EUSIPCO.
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("layer", "head")
    needs: ClassVar[tuple[str, ...]] = ("pattern",)

    examples: int = 4

    def measure(self, probe: Probe) -> Reading:
        """The effective rank of each head."""
        ranks: list[Tensor | None] = []
        shares: list[Tensor | None] = []
        stable: list[Tensor | None] = []
        for layer in rows(probe):
            if layer.pattern.shape[2] < 2 or not bool(layer.counts.any()):
                for found in (ranks, shares, stable):
                    found.append(None)
                continue
            # A row that does not count becomes zero, which adds no singular value.
            kept = torch.where(layer.counts[..., None], layer.pattern, 0.0)[: self.examples]
            values = singular_values(kept)
            total = values.sum(-1, keepdim=True)
            rank = torch.special.entr(values / total).sum(-1).exp()
            n_keys = (kept != 0).any(-2).sum(-1)
            size = torch.minimum(layer.counts[: self.examples].sum(-1), n_keys).clamp(min=1)
            due = total[..., 0] != 0
            ranks.append(_mean(rank, due))
            shares.append(_mean(rank / size, due))
            stable.append(_mean(values.square().sum(-1) / values[..., 0].square(), due))
        return heads_reading(
            self, probe, ranks, why_none="every attention has a single query",
            facts={"share": nested(shares), "stable_rank": nested(stable)},
        )


def singular_values(matrices: Tensor) -> Tensor:
    """Singular values; NaN where a matrix holds one (LAPACK would raise)."""
    finite = matrices.isfinite().all(-1).all(-1)
    safe = torch.where(finite[..., None, None], matrices, torch.zeros_like(matrices))
    values = torch.linalg.svdvals(safe)
    return torch.where(finite[..., None], values, torch.full_like(values, torch.nan))


def _mean(values: Tensor, due: Tensor) -> Tensor:
    """Mean over the examples [batch, head] -> [head] that have rows at all; NaN in an example stays NaN."""
    kept = torch.where(due, values, torch.zeros_like(values))
    return kept.sum(0) / due.sum(0)
