"""How different the tokens still are where they enter each attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from attnscope.lenses import Lens
from attnscope.lenses._rows import rows
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class TokenSpread(Lens):
    """How different the tokens of a text still are where they enter each attention: 0 is rank collapse.

    **Measures** |X - 1 mean(X)|_F / |X|_F over the real tokens of each example, X being the states that the
    queries are made from; mean over examples (unit 1, between 0 and 1).

    **Reading it** 0.3 to 0.99 is healthy. Falling towards 0 with depth: tokens become the same vector (rank
    collapse), which follows missing residuals or attention that only averages. Exactly 0 at the first
    attention: the input itself is constant. A few huge shared dimensions lower it in large trained models
    without harm; `cosine` says the same of directions.

    **Shapes** [layer]; NaN for learned queries and single tokens. Facts: `cosine`: mean cosine between two
    tokens of one example, per layer; `output_spread`: the same measure of what the attention writes.

    **Cost** one forward pass, shared.

    **Reference** Dong et al. 2021, Attention is not all you need, arXiv:2103.03404.
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("layer",)
    needs: ClassVar[tuple[str, ...]] = ("pattern",)

    def measure(self, probe: Probe) -> Reading:
        """The spread of the tokens before each attention."""
        values: list[float] = []
        cosines: list[float | None] = []
        outputs: list[float | None] = []
        for layer in rows(probe):
            real = layer.counts.any(1)
            spread = _spread(layer.tensors.hidden, real)
            values.append(float("nan") if spread is None else spread[0])
            cosines.append(None if spread is None else spread[1])
            written = _spread(layer.tensors.output, real)
            outputs.append(None if written is None else written[0])
        if all(cosine is None for cosine in cosines):
            return self.not_applicable("no attention makes its queries from two tokens or more")
        broken = [
            index for index, cosine in enumerate(cosines) if cosine is not None and np.isnan(values[index])
        ]
        layers: tuple[Any, ...] = tuple(attention.layer for attention in probe.anatomy.attentions)
        return self.reading(
            np.where(np.isin(np.arange(len(values)), broken), np.inf, values), coords={"layer": layers},
            note=f"not finite at L{layers[broken[0]]}" if broken else "", step=probe.step,
            facts={"cosine": cosines, "output_spread": outputs},
        )


def _spread(states: torch.Tensor | None, real: torch.Tensor) -> tuple[float, float] | None:
    """Relative distance to the mean token, and mean cosine of two tokens; None without two tokens."""
    if states is None or states.ndim != 3 or tuple(states.shape[:2]) != tuple(real.shape):
        return None
    spreads, cosines = [], []
    for tokens, kept in zip(states.detach().cpu().double(), real, strict=True):
        chosen = tokens[kept]
        n = len(chosen)
        if n < 2:
            continue
        size = chosen.norm()
        spreads.append(float((chosen - chosen.mean(0)).norm() / size) if bool(size != 0) else 0.0)
        unit = torch.nn.functional.normalize(chosen, dim=-1)
        cosines.append(float((unit.sum(0).square().sum() - n) / (n * (n - 1))))
    return (float(np.mean(spreads)), float(np.mean(cosines))) if spreads else None
