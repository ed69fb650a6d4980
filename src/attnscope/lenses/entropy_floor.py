"""How low each head's entropy could be, given how large its scores are."""

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
class EntropyFloor(Lens):
    """The least entropy that scores of this size allow, as a share of ln n: at 1 no head can be sharp.

    **Measures** per row with n allowed keys and s the Euclidean norm of its scores after their mean is
    taken off, b = exp(-s sqrt(n/(n-1))): floor = ln(1+(n-1)b) + s sqrt(n(n-1)) b / (1+(n-1)b), divided by
    ln n, mean over real queries (unit 1). It is attained when one score stands out and the others are
    equal. The paper bounds s by a spectral norm of the weights; the norm of the row itself gives the
    tighter floor used here.

    **Reading it** the entropy is never below it. A floor near 0 permits collapse and does not prove it; a
    floor near 1 means that the scores are so small that the head cannot choose, whatever it has learnt (a
    doubled scale, zero queries, an untrained layer). Not meaningful where the weights of the pattern are not
    a softmax of the scores.

    **Shapes** [layer, head]. Facts: `score_norm`: mean s per [layer][head]; `gap`: mean of entropy share
    minus floor share, never negative for a softmax.

    **Cost** one forward pass, shared.

    **Reference** Zhai et al. 2023, theorem 3.1, arXiv:2303.06296.
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("layer", "head")
    needs: ClassVar[tuple[str, ...]] = ("pattern",)

    def measure(self, probe: Probe) -> Reading:
        """The floor of each head."""
        means: list[Tensor | None] = []
        norms: list[Tensor | None] = []
        gaps: list[Tensor | None] = []
        for layer in rows(probe):
            scores = layer.tensors.scores.detach().cpu().double()
            seen = layer.allowed & ~scores.isneginf()
            n_seen = seen.sum(-1).double()
            due = layer.counts & (n_seen >= 2)
            if not bool(due.any()):
                for found in (means, norms, gaps):
                    found.append(None)
                continue
            kept = torch.where(seen, scores, 0.0)
            centre = kept.sum(-1, keepdim=True) / n_seen.clamp(min=1)[..., None]
            norm = torch.where(seen, kept - centre, 0.0).norm(dim=-1)
            n = n_seen.clamp(min=2)
            floor = entropy_floor(norm, n) / n.log()
            entropy = torch.special.entr(torch.where(seen, layer.pattern, 0.0)).sum(-1) / n.log()
            means.append(layer.mean(floor, due))
            norms.append(layer.mean(norm, due))
            gaps.append(layer.mean(entropy - floor, due))
        return heads_reading(
            self, probe, means, why_none="no query may see two keys",
            facts={"score_norm": nested(norms), "gap": nested(gaps)},
        )


def entropy_floor(norm: Tensor, n: Tensor) -> Tensor:
    """The least entropy in nats of a softmax over n scores whose norm, mean taken off, is `norm`."""
    others = (n - 1) * torch.exp(-norm * (n / (n - 1)).sqrt())
    return torch.log1p(others) + norm * (n / (n - 1)).sqrt() * others / (1 + others)
