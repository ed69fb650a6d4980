"""How alike two heads of one layer attend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from attnscope.lenses import Lens
from attnscope.lenses._per_head import heads_reading
from attnscope.lenses._rows import Rows, rows
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class HeadSimilarity(Lens):
    """How alike each head attends to its nearest neighbour in the layer: 1 is the very same pattern.

    **Measures** for each pair of heads 1 - mean over real queries of the total variation distance
    (1/2) sum_j |p_j - q_j|; a head's value is its largest over the layer's other heads (unit 1).

    **Reading it** trained heads differ (0.3 to 0.9); untrained ones all look uniform, so 0.95 and more is
    normal there. Exactly 1 in a trained model: heads were tied or copied. Equal patterns alone may be
    harmless (two positional heads); equal patterns with equal contexts compute the same thing twice.

    **Shapes** [layer, head]; NaN for a layer of one head. Facts: `nearest`: that head's number per
    [layer][head]; `duplicates`: list of {layer, heads: [a, b], same_context, uniform} for pairs whose
    patterns agree to the precision of the computation; `mean`: mean over pairs per layer.

    **Cost** one forward pass, shared; H^2/2 comparisons of patterns per layer.

    **Reference** Bian et al. 2021, On Attention Redundancy, NAACL (distance between heads).
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("layer", "head")
    needs: ClassVar[tuple[str, ...]] = ("pattern",)

    def measure(self, probe: Probe) -> Reading:
        """The similarity of each head to its nearest neighbour."""
        largest: list[Tensor | None] = []
        nearest: list[list[int] | None] = []
        duplicates: list[dict[str, Any]] = []
        means: list[float | None] = []
        for layer in rows(probe):
            n_heads = layer.pattern.shape[1]
            if n_heads < 2 or not bool(layer.counts.any()):
                largest.append(None)
                nearest.append(None)
                means.append(None)
                continue
            similar, gap = _pairwise(layer)
            found = similar.masked_fill(torch.eye(n_heads, dtype=torch.bool), -torch.inf).max(-1)
            largest.append(found.values)
            nearest.append([int(head) for head in found.indices])
            means.append(float((similar.sum() - similar.trace()) / (n_heads * (n_heads - 1))))
            duplicates += _duplicates(layer, gap)
        return heads_reading(
            self, probe, largest, why_none="no layer has two heads",
            facts={"nearest": nearest, "duplicates": duplicates, "mean": means},
        )


def _pairwise(layer: Rows) -> tuple[Tensor, Tensor]:
    """[head, head]: one minus the mean total variation distance, and the largest gap of any one weight."""
    n_heads = layer.pattern.shape[1]
    shared = layer.counts.all(1)
    similar = torch.eye(n_heads, dtype=torch.float64)
    gap = torch.zeros(n_heads, n_heads, dtype=torch.float64)
    kept = layer.pattern.movedim(1, 0)[:, shared]  # [head, row, key]
    for head in range(n_heads - 1):
        distance = (kept[head + 1 :] - kept[head]).abs()
        similar[head, head + 1 :] = similar[head + 1 :, head] = 1 - distance.sum(-1).mean(-1) / 2
        gap[head, head + 1 :] = gap[head + 1 :, head] = distance.amax((-1, -2))
    return similar, gap


def _duplicates(layer: Rows, gap: Tensor) -> list[dict[str, Any]]:
    """Pairs whose patterns agree to rounding, and whether what they bring back agrees too."""
    context = layer.tensors.context
    scale = torch.finfo(layer.tensors.pattern.dtype).eps
    per_row = layer.n_allowed.double()[..., None]
    uniform = torch.where(layer.counts[..., None] & layer.allowed, (layer.pattern - 1 / per_row).abs(), 0.0)
    is_uniform = uniform.amax((0, 2, 3)) <= 8 * scale
    found = []
    for a in range(gap.shape[0]):
        for b in range(a + 1, gap.shape[0]):
            if not bool(gap[a, b] <= 8 * scale):
                continue
            same = None
            if context is not None:
                first, second = context[:, a].double(), context[:, b].double()
                same = bool((first - second).abs().max() <= 64 * scale * first.abs().max().clamp(min=1e-30))
            found.append({
                "layer": layer.attention.layer, "heads": [a, b], "same_context": same,
                "uniform": bool(is_uniform[a] and is_uniform[b]),
            })
    return found
