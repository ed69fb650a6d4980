"""How much each head adds to its layer's output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from attnscope.lenses import Lens
from attnscope.lenses._parameters import head_matrix, named
from attnscope.lenses._per_head import heads_reading, nested
from attnscope.lenses._rows import Rows, rows
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class HeadContribution(Lens):
    """How much each head adds to what its layer writes, beside the layer's mean head: 0 is a dead head.

    **Measures** the root mean square over real queries of |context_h W_O,h|, divided by the root mean square
    over the heads of the layer (unit 1; the layer's heads have mean square 1).

    **Reading it** 0.3 to 2 is usual. Exactly 0: the head's values or its part of the output projection are
    zero, so its queries and keys cannot matter either; `cause` says which. When every head is 0 the layer is
    dead and the ratio is not defined: see `norm`.

    **Shapes** [layer, head]. Facts: `norm`: root mean square of the contribution before division, per
    [layer][head]; `context_norm`: the same before W_O; `dead`: list of {layer, head, cause: `context` or
    `output` or `both`}; `dead_layers`: layers all of whose heads are dead; `without_output`: layers whose W_O
    was not found (contexts are compared instead).

    **Cost** one forward pass, shared, and one product per head.

    **Reference** Kobayashi et al. 2020, Attention is Not Only a Weight, arXiv:2004.10102.
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("layer", "head")
    needs: ClassVar[tuple[str, ...]] = ("pattern", "weights")

    def measure(self, probe: Probe) -> Reading:
        """The contribution of each head."""
        ratios: list[Tensor | None] = []
        norms: list[Tensor | None] = []
        contexts: list[Tensor | None] = []
        dead: list[dict[str, Any]] = []
        dead_layers: list[int] = []
        without: list[int] = []
        parameters = named(probe.model)
        for layer in rows(probe):
            context = layer.tensors.context
            if context is None or not bool(layer.counts.any()):
                for found in (ratios, norms, contexts):
                    found.append(None)
                continue
            context = context.detach().cpu().double()
            heads = range(context.shape[1])
            out = [head_matrix(parameters, layer.attention, "output", head) for head in heads]
            if any(matrix is None or matrix.shape[0] != context.shape[-1] for matrix in out):
                out = []
                without.append(layer.attention.layer)
            before, after = _norms(layer, context, [matrix for matrix in out if matrix is not None])
            contexts.append(before)
            norms.append(after)
            mean = after.square().mean().sqrt()
            ratios.append(after / torch.where(mean == 0, torch.ones_like(mean), mean))
            if bool((after == 0).all()):
                dead_layers.append(layer.attention.layer)
            dead += _dead(layer, before, after, [matrix for matrix in out if matrix is not None])
        return heads_reading(
            self, probe, ratios, why_none="what the heads bring back was not found",
            facts={
                "norm": nested(norms), "context_norm": nested(contexts), "dead": dead,
                "dead_layers": dead_layers, "without_output": without,
            },
        )


def _norms(layer: Rows, context: Tensor, out: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Root mean square per head of the context and of what W_O makes of it."""
    before, after = [], []
    for head in range(context.shape[1]):
        seen = context[:, head][layer.counts[:, head]]
        before.append(seen.square().sum(-1).mean().sqrt())
        after.append((seen @ out[head]).square().sum(-1).mean().sqrt() if out else before[-1])
    return torch.stack(before), torch.stack(after)


def _dead(layer: Rows, before: Tensor, after: Tensor, out: list[Tensor]) -> list[dict[str, Any]]:
    found = []
    for head in (after == 0).nonzero()[:, 0].tolist():
        no_output = bool(out) and not bool(out[head].any())
        no_context = bool(before[head] == 0)
        cause = "both" if no_output and no_context else "output" if no_output else "context"
        found.append({"layer": layer.attention.layer, "head": head, "cause": cause})
    return found
