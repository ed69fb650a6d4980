"""By which factor query-key products really become scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attnscope.anatomy.blocks import Form
from attnscope.lenses import Lens
from attnscope.lenses._per_head import heads_reading, nested
from attnscope.lenses._rows import rows, score_cells
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class MeasuredScale(Lens):
    """The factor by which query-key products really become scores, over 1/sqrt(d_head): 1 is healthy.

    **Measures** the slope of the scores on the bare query-key products over real queries and allowed keys,
    times sqrt(d_head) (unit 1). What depends on the pair of positions alone (relative biases, ALiBi) is taken
    off both sides first when the batch holds several examples.

    **Reading it** 1: scaled by 1/sqrt(d_head). sqrt(d_head): no scale at all, which T5 means and others do
    not. 1/sqrt(d_head): scaled twice. Another number: scaled by another width (d_model, say). `r2` below
    1 means that the scores are more than scaled products and biases: then the slope is only an average.

    **Shapes** [layer, head]; NaN where there are no query-key products. Facts: `slope`, `r2` per
    [layer][head]; `expected`: 1/sqrt(d_head) per layer; `traced`: the factor that the trace saw per layer;
    `d_head` per layer.

    **Cost** one forward pass, shared.

    **Reference** Vaswani et al. 2017, section 3.2.1, arXiv:1706.03762.
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("layer", "head")
    needs: ClassVar[tuple[str, ...]] = ("pattern",)

    def measure(self, probe: Probe) -> Reading:
        """The scale of each head."""
        relative: list[Tensor | None] = []
        slopes: list[Tensor | None] = []
        fits: list[Tensor | None] = []
        expected: list[float | None] = []
        for layer in rows(probe):
            raw, width = layer.tensors.raw_scores, layer.attention.d_head
            dot_product = layer.attention.form in (Form.DOT_PRODUCT, Form.FUSED)
            expected.append(width**-0.5 if width and dot_product else None)
            scores, seen = score_cells(layer)
            if raw is None or not width or not dot_product or int(seen.sum()) < 3:
                for found in (relative, slopes, fits):
                    found.append(None)
                continue
            slope, fit = regression(scores, raw.detach().cpu().double(), seen)
            slopes.append(slope)
            fits.append(fit)
            relative.append(slope * width**0.5)
        return heads_reading(
            self, probe, relative, why_none="no attention makes its scores from products of queries and keys",
            facts={
                "slope": nested(slopes), "r2": nested(fits), "expected": expected,
                "traced": [attention.scale for attention in probe.anatomy.attentions],
                "d_head": [attention.d_head for attention in probe.anatomy.attentions],
            },
        )


def regression(scores: Tensor, raw: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Per head, slope and coefficient of determination of scores on raw products over the seen cells.

    An intercept per pair of positions, over the pairs that are seen in two examples at least; one intercept
    per head where that leaves no variation of the products. Products that do not vary at all have no slope:
    0, with a coefficient of 0.
    """
    slope, fit, variation = _fitted(scores, raw, seen, (0, 2, 3))
    finer = seen & (seen.sum(0) >= 2)
    own_slope, own_fit, own_variation = _fitted(scores, raw, finer, (0,))
    # Less than this share of variation is rounding of products that are alike in every example.
    use = own_variation > 1e-6 * variation
    return torch.where(use, own_slope, slope), torch.where(use, own_fit, fit)


def _fitted(scores: Tensor, raw: Tensor, seen: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Slope, coefficient of determination, and variation of the products, with an intercept over `dims`."""
    n = seen.sum(dims, keepdim=True).clamp(min=1)
    x = torch.where(seen, raw, 0.0)
    y = torch.where(seen, scores, 0.0)
    x = torch.where(seen, x - x.sum(dims, keepdim=True) / n, 0.0)
    y = torch.where(seen, y - y.sum(dims, keepdim=True) / n, 0.0)
    xx, xy, yy = ((a * b).sum((0, 2, 3)) for a, b in ((x, x), (x, y), (y, y)))
    slope = torch.where(xx == 0, 0.0 * xy, xy / torch.where(xx == 0, 1.0, xx))
    explained = slope * xy
    fit = torch.where(yy == 0, 0.0 * explained, explained / torch.where(yy == 0, 1.0, yy))
    return slope, fit, xx
