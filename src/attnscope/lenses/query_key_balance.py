"""Whether queries and keys carry the same share of each head's weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from attnscope.lenses import Lens
from attnscope.lenses._parameters import head_factors, named
from attnscope.lenses._per_head import heads_reading, nested
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class QueryKeyBalance(Lens):
    """How unequal a head's query and key weights are: 0 when they agree, 1 when one side is all.

    **Measures** |W_K W_K^T - W_Q W_Q^T|_F / (|W_K W_K^T|_F + |W_Q W_Q^T|_F), d_head x d_head matrices of
    one head (unit 1).

    **Reading it** gradient flow keeps the difference as it began, weight decay shrinks it, so 0.2 to 0.6 is
    usual. Exactly 0: queries and keys are the same matrix (tied or copied). 1: one of them is zero. Moving a
    factor from keys to queries changes it and nothing else: a large value alone is no fault.

    **Shapes** [layer, head]; NaN where a projection was not found. Facts: `log_ratio`: ln(|W_Q|/|W_K|) per
    [layer][head]; `cosine`: cosine between W_Q and W_K as vectors (1: equal up to scale).

    **Cost** two products of d_head x d_model x d_head per head.

    **Reference** Du, Hu & Lee 2018, Algorithmic Regularization in Learning Deep Homogeneous Models,
    arXiv:1806.00900.
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("layer", "head")
    needs: ClassVar[tuple[str, ...]] = ("weights",)

    def applies_to(self, anatomy: Any) -> str:
        """Needs a query and a key projection somewhere."""
        if any({"query", "key"} <= set(attention.head_slices) for attention in anatomy.attentions):
            return ""
        return "no attention has both a query and a key projection"

    def measure(self, probe: Probe) -> Reading:
        """The balance of each head."""
        parameters = named(probe.model)
        balance: list[Tensor | None] = []
        ratios: list[Tensor | None] = []
        cosines: list[Tensor | None] = []
        for attention in probe.anatomy.attentions:
            factors = head_factors(parameters, attention)
            stacked = None
            if factors is not None:
                stacked = torch.stack([_compared(query, key) for query, key in zip(*factors, strict=True)]).T
            for store, row in ((balance, 0), (ratios, 1), (cosines, 2)):
                store.append(None if stacked is None else stacked[row])
        return heads_reading(
            self, probe, balance, why_none="no attention has both a query and a key projection",
            facts={"log_ratio": nested(ratios), "cosine": nested(cosines)},
        )


def _compared(query: Tensor, key: Tensor) -> Tensor:
    """Balance, log ratio of norms, cosine; zero factors give 0 balance when both are zero."""
    gram_q, gram_k = query @ query.T, key @ key.T
    total = gram_q.norm() + gram_k.norm()
    balance = (gram_k - gram_q).norm() / (total if bool(total != 0) else 1.0)
    tiny = torch.finfo(torch.float64).tiny
    ratio = query.norm().clamp(min=tiny).log() - key.norm().clamp(min=tiny).log()
    if query.shape != key.shape:
        return torch.stack([balance, ratio, torch.zeros_like(balance)])
    cosine = (query * key).sum() / (query.norm() * key.norm()).clamp(min=tiny)
    return torch.stack([balance, ratio, cosine])
