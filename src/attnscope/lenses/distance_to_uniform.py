"""How far each head is from attending to everything alike."""

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

HALF = 1e-4  # a larger eps is that of half precision


@dataclass(frozen=True)
class DistanceToUniform(Lens):
    """How far each head is from attending to every allowed key alike: exactly 0 means that it cannot choose.

    **Measures** the mean over real queries of the total variation distance (1/2) sum_j |p_j - 1/n| to uniform
    attention over the n allowed keys (unit 1).

    **Reading it** exactly 0 (see `exact`): queries or keys are zero, or the scores are constant; the head
    averages whatever it has learnt. Small but not zero is normal before training and legitimate in heads that
    collect a bag of words. `attention_entropy` says the same less exactly.

    **Shapes** [layer, head]; NaN where no query may see two keys. Facts: `largest_gap`: largest |p_j n -
    1| over rows and keys per [layer][head]; `exact`: list of [layer, head] whose gap is rounding (in half
    precision, whose scores do not differ either).

    **Cost** one forward pass, shared.

    **Reference** none needed: a distance.
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("layer", "head")
    needs: ClassVar[tuple[str, ...]] = ("pattern",)

    def measure(self, probe: Probe) -> Reading:
        """The distance of each head."""
        distances: list[Tensor | None] = []
        gaps: list[Tensor | None] = []
        exact: list[list[int]] = []
        for layer in rows(probe):
            n = layer.n_allowed.double()
            due = layer.counts & (n >= 2)
            if not bool(due.any()):
                distances.append(None)
                gaps.append(None)
                continue
            uniform = layer.allowed.double() / n[..., None]
            away = (layer.pattern - uniform).abs()
            distances.append(layer.mean(away.sum(-1) / 2, due))
            gap = torch.where(due[..., None], away * n[..., None], 0.0).amax((0, 2, 3))
            gaps.append(gap)
            rounding = 16 * torch.finfo(layer.tensors.pattern.dtype).eps
            flat = (gap <= rounding) & _constant_scores(layer, due)
            exact += [[layer.attention.layer, int(head)] for head in flat.nonzero()[:, 0]]
        return heads_reading(
            self, probe, distances, why_none="no query may see two keys",
            facts={"largest_gap": nested(gaps), "exact": exact},
        )


def _constant_scores(layer: Rows, due: Tensor) -> Tensor:
    """Per head, whether the scores do not differ either: half precision rounds away what small ones do to a pattern."""
    eps = torch.finfo(layer.tensors.pattern.dtype).eps
    scores = layer.tensors.scores.detach().cpu().double()
    if eps < HALF or scores.shape != layer.allowed.shape:
        return torch.ones(layer.pattern.shape[1], dtype=torch.bool)
    kept = layer.allowed & due[..., None]
    highest = torch.where(kept, scores, -torch.inf).amax(-1)
    lowest = torch.where(kept, scores, torch.inf).amin(-1)
    spread = torch.where(due, highest - lowest, 0.0).nan_to_num(0.0).amax((0, 2))
    size = torch.where(kept, scores.abs(), 0.0).nan_to_num(0.0).amax((0, 2, 3))
    return spread <= 2 * eps * size + 16 * torch.finfo(torch.float32).eps
