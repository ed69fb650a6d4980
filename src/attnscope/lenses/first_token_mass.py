"""How much attention each head parks on the first token."""

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
class FirstTokenMass(Lens):
    """The share of attention on the first real token: an attention sink, and normal in causal models.

    **Measures** the mean over real queries, the first left out, of the weight on the first real key (unit 1).

    **Reading it** above 0.3 the head is called a sink. Sinks are how a trained causal model says "nothing to
    fetch"; they are no fault. A sink in every head of every layer of an encoder can come from padding on the
    left that is taken for text, or from a position code that is constant.

    **Shapes** [layer, head]. Facts: `uniform`: what uniform attention over the allowed keys would give, per
    layer; `sink_share`: share of rows whose first-token weight is above 0.3, per [layer][head].

    **Cost** one forward pass, shared.

    **Reference** Gu et al. 2024, When Attention Sink Emerges in Language Models, arXiv:2410.10781.
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("layer", "head")
    needs: ClassVar[tuple[str, ...]] = ("pattern",)

    def measure(self, probe: Probe) -> Reading:
        """The mass on the first token of each head."""
        means: list[Tensor | None] = []
        sinks: list[Tensor | None] = []
        uniform: list[float | None] = []
        for layer in rows(probe):
            n_queries, n_keys = layer.pattern.shape[2:]
            first = _first_real(layer.real.keys, layer.pattern.shape[0])
            position = first[:, None, None, None].expand(*layer.pattern.shape[:3], 1)
            weight = layer.pattern.gather(-1, position)[..., 0]
            may_see = layer.allowed.gather(-1, position)[..., 0]
            due = layer.counts & may_see
            if n_queries == n_keys and n_queries > 1:
                due = due & (torch.arange(n_queries) != first[:, None])[:, None]
            if n_keys < 2 or not bool(due.any()):
                means.append(None)
                sinks.append(None)
                uniform.append(None)
                continue
            means.append(layer.mean(weight, due))
            sinks.append(layer.mean((weight > 0.3).double(), due))
            uniform.append(float((1 / layer.n_allowed.double())[due].mean()))
        return heads_reading(
            self, probe, means, why_none="no query may see a first token besides its own",
            facts={"uniform": uniform, "sink_share": nested(sinks)},
        )


def _first_real(real: Tensor | None, batch_size: int) -> Tensor:
    """[batch]: position of the first real key."""
    if real is None:
        return torch.zeros(batch_size, dtype=torch.long)
    return real.int().argmax(-1)
