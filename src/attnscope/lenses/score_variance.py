"""How much the scores of one query differ from key to key."""

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
class ScoreVariance(Lens):
    """How much the scores of one query differ from key to key: what decides whether attention can choose.

    **Measures** the variance of a query's scores over its allowed keys, mean over real queries (unit nats^2).

    **Reading it** the 1/sqrt(d) of dot-product attention is there to make this about 1 for unit-variance
    queries and keys; most trained heads lie between 0.5 and 10, single ones far above (`benchmarks/lenses.py`
    prints those of a pre-trained encoder). Below 1e-3 the pattern is uniform whatever is learnt (a doubled
    scale, small or zero projections). Growth over training precedes entropy collapse; with the scale missing
    it is d times too large from the first step.

    **Shapes** [layer, head]. Facts: `raw`: the same for the bare query-key products per [layer][head] (None
    where there are none); `without_position`: variance after the mean over examples of each pair of positions
    is taken off, which leaves what the content decides.

    **Cost** one forward pass, shared.

    **Reference** Vaswani et al. 2017, section 3.2.1, arXiv:1706.03762; Hong & Lee 2025, EMNLP (logit variance
    and entropy collapse).
    """

    unit: ClassVar[str] = "nats^2"
    dims: ClassVar[tuple[str, ...]] = ("layer", "head")
    needs: ClassVar[tuple[str, ...]] = ("pattern",)

    def measure(self, probe: Probe) -> Reading:
        """The variance of each head."""
        variances: list[Tensor | None] = []
        raws: list[Tensor | None] = []
        contents: list[Tensor | None] = []
        for layer in rows(probe):
            scores, seen = score_cells(layer)
            due = seen.sum(-1) >= 2
            if not bool(due.any()):
                for found in (variances, raws, contents):
                    found.append(None)
                continue
            variances.append(layer.mean(row_variance(scores, seen), due))
            raw = layer.tensors.raw_scores
            bare = None if raw is None else row_variance(raw.detach().cpu().double(), seen)
            raws.append(None if bare is None else layer.mean(bare, due))
            several = seen.sum(0) >= 2
            mean = torch.where(seen, scores, 0.0).sum(0) / seen.sum(0).clamp(min=1)
            left = seen & several
            enough = left.sum(-1) >= 2
            content = row_variance(scores - mean, left)
            contents.append(layer.mean(content, enough) if bool(enough.any()) else None)
        return heads_reading(
            self, probe, variances, why_none="no query may see two keys",
            facts={"raw": nested(raws), "without_position": nested(contents)},
        )


def row_variance(scores: Tensor, seen: Tensor) -> Tensor:
    """[batch, head, query]: variance over the seen keys."""
    n = seen.sum(-1).clamp(min=1)
    kept = torch.where(seen, scores, 0.0)
    mean = kept.sum(-1) / n
    return torch.where(seen, kept - mean[..., None], 0.0).square().sum(-1) / n
