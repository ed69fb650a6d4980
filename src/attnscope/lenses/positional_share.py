"""How much of a head's attention is decided by position alone."""

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


@dataclass(frozen=True)
class PositionalShare(Lens):
    """The share of a head's choices that position alone decides: 1 is the same pattern for every text.

    **Measures** a two-way split of the variance of the weights around uniform attention. For each pair of
    positions, the mean over examples is what position decides, the spread over examples what the content
    decides; both variances are estimated without bias and position's share of their sum is given (unit 1).

    **Reading it** previous-token heads are near 1, heads that match words near 0. Exactly 0 in the first
    layer when no position reaches it and nothing else orders the tokens. Near 1 everywhere: the content does
    not reach the scores (the examples of the batch are alike, or the embedding is dead). Estimated from the
    examples of one batch: with few of them it is noisy, and it can then fall below 0, where it is cut.

    **Shapes** [layer, head]; NaN with fewer than two examples. Facts: `n_examples`; `position_variance`,
    `content_variance` per [layer][head].

    **Cost** one forward pass, shared.

    **Reference** Searle, Casella & McCulloch 1992, Variance Components (the one-way random model).
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("layer", "head")
    needs: ClassVar[tuple[str, ...]] = ("pattern",)

    def measure(self, probe: Probe) -> Reading:
        """The positional share of each head."""
        shares: list[Tensor | None] = []
        positions: list[Tensor | None] = []
        contents: list[Tensor | None] = []
        for layer in rows(probe):
            split = _split(layer)
            if split is None:
                for found in (shares, positions, contents):
                    found.append(None)
                continue
            position, content = split
            total = position + content
            shares.append(torch.where(total > 0, position / torch.where(total > 0, total, 1.0), 0.0 * total))
            positions.append(position)
            contents.append(content)
        n_examples = [int(tensors.pattern.shape[0]) for tensors in probe.observation.attentions]
        return heads_reading(
            self, probe, shares, why_none="the first batch holds fewer than two examples",
            facts={
                "n_examples": n_examples, "position_variance": nested(positions),
                "content_variance": nested(contents),
            },
        )


def _split(layer: Rows) -> tuple[Tensor, Tensor] | None:
    """Variance by position and by content per head; None without two examples of any cell."""
    due = layer.allowed & layer.counts[..., None] & (layer.allowed.sum(-1, keepdim=True) >= 2)
    n = due.sum(0)  # [head, query, key]: how many examples have this cell
    cells = n >= 2
    if not bool(cells.any()):
        return None
    away = torch.where(due, layer.pattern - 1 / layer.n_allowed.double()[..., None], 0.0)
    mean = away.sum(0) / n.clamp(min=1)
    within = torch.where(due, (away - mean) ** 2, 0.0).sum(0) / (n - 1).clamp(min=1)
    # The square of a mean over n examples holds 1/n of the spread between them; it is taken off again.
    between = mean**2 - within / n.clamp(min=1)
    n_cells = cells.sum((-1, -2)).clamp(min=1)
    content = torch.where(cells, within, 0.0).sum((-1, -2)) / n_cells
    position = torch.where(cells, between, 0.0).sum((-1, -2)) / n_cells
    return torch.where(position < 0, torch.zeros_like(position), position), content
