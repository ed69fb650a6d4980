"""The rows of a pattern that count: queries that are real tokens and have at least one key they may see."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from attnscope.anatomy.blocks import Attention
from attnscope.anatomy.observe import AttentionTensors
from attnscope.lenses._padding import RealTokens, real_tokens
from attnscope.probe import Probe


@dataclass(frozen=True)
class Rows:
    """One attention's pattern with what a row-wise measure needs, in float64 on the CPU.

    Attributes:
        attention: what the trace says about it.
        tensors: the observed tensors.
        pattern: [batch, head, query, key].
        allowed: bool [batch, head, query, key]; all True when no mask was found.
        counts: bool [batch, head, query]: the query is real and may see at least one key.
        real: the real tokens of both sides.
    """

    attention: Attention
    tensors: AttentionTensors
    pattern: Tensor
    allowed: Tensor
    counts: Tensor
    real: RealTokens

    @property
    def n_allowed(self) -> Tensor:
        """[batch, head, query]: how many keys each query may see, at least 1."""
        return self.allowed.sum(-1).clamp(min=1)

    def mean(self, values: Tensor, where: Tensor | None = None) -> Tensor:
        """Per head, the mean of [batch, head, query] over the rows that count (and `where`); NaN if none."""
        chosen = self.counts if where is None else self.counts & where
        total = torch.where(chosen, values, torch.zeros_like(values)).sum((0, 2))
        return total / chosen.sum((0, 2))

    def largest(self, values: Tensor) -> Tensor:
        """Per head, the largest of [batch, head, query] over the rows that count; 0 when there are none."""
        kept = torch.where(self.counts, values, torch.zeros_like(values))
        return kept.amax((0, 2))


def rows(probe: Probe) -> Iterator[Rows]:
    """Every attention's rows, in the order of `anatomy.attentions`."""
    for index, tensors in enumerate(probe.observation.attentions):
        pattern = tensors.pattern.detach().cpu().double()
        allowed = torch.ones(pattern.shape, dtype=torch.bool)
        if tensors.allowed is not None:
            allowed = tensors.allowed.detach().cpu().bool().expand(pattern.shape)
        real = real_tokens(probe, index)
        counts = allowed.any(-1)
        if real.queries is not None:
            counts = counts & real.queries[:, None, :]
        yield Rows(probe.anatomy.attentions[index], tensors, pattern, allowed, counts, real)


def score_cells(layer: Rows) -> tuple[Tensor, Tensor]:
    """The scores in float64, and which of them are real: allowed pairs of rows that count.

    A score of minus infinity is a mask that the trace did not see as one; it is never a real score.
    """
    scores = layer.tensors.scores.detach().cpu().double()
    return scores, layer.allowed & layer.counts[..., None] & ~scores.isneginf()
