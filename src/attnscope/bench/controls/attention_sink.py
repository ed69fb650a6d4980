"""One head of a causal model rests on the first token."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attnscope.anatomy.blocks import Anatomy, Attention, Role
from attnscope.anatomy.observe import AttentionTensors, observe
from attnscope.bench.controls import Control
from attnscope.bench.controls._weights import PRODUCTS, attentions_of, heads, pieces
from attnscope.case import Case, default_forward, default_loss
from attnscope.faults import FaultError

SINK = 0.3  # mass on the first token from which Gu et al. 2025 speak of a sink


@dataclass(frozen=True)
class AttentionSink(Control):
    """Builds an attention sink into the head that can best do without its work.

    **Changes**: in one head, the first token's key and the bias of all queries move along the direction in which
    queries and keys differ least, so that the score of the first token rises by about the same number for every query;
    its value becomes zero. What is done to the first token alone goes through a direction of the hidden state that
    only it has. All heads are tried; of those that then rest on it with 0.3 of their mass, the one with the lowest
    loss stays. The optimiser is left out. The function is not preserved to rounding.

    **Why it is healthy**: trained causal models rest idle heads on the first token (Gu et al. 2025), and the loss is
    hardly higher; a case whose loss rises by more than `tolerance` of itself is refused.

    Attributes:
        rise: by how much the first token's score rises.
        tolerance: by what share of itself the loss may rise.
    """

    rise: float = 6.0
    tolerance: float = 0.05
    preserves: ClassVar[bool] = False

    @torch.no_grad()
    def change(self, case: Case, anatomy: Anatomy) -> None:
        """Tries every head and keeps the best.

        Raises:
            FaultError: the model is not causal, does not always begin alike, or needs all its heads.
        """
        attentions = attentions_of(anatomy, *PRODUCTS)
        if not all(item.causal_source for item in attentions):
            raise FaultError("sinks are a habit of causal models, and this one is not")
        forward = case.forward or default_forward
        was_training = case.model.training
        case.model.eval()
        seen = observe(case.model, next(iter(case.batches)), anatomy=anatomy, forward=forward).attentions
        before, kept = _loss(case, case.model), (float("inf"), case.model)
        for item, tensors in zip(attentions, seen, strict=True):
            for head in range(item.n_heads):
                tried = copy.deepcopy(case.model)
                self._build(tried, item, tensors, head)
                again = observe(tried, next(iter(case.batches)), anatomy=anatomy, forward=forward)
                if float(again.attentions[item.layer].pattern[:, head, :, 0].mean()) >= SINK:
                    kept = min(kept, (_loss(case, tried), tried), key=lambda pair: pair[0])
        if kept[0] > (1 + self.tolerance) * before:
            raise FaultError(f"every head has work to do: a sink raises the loss from {before:.3g} to {kept[0]:.3g}")
        case.model.load_state_dict(kept[1].state_dict())
        case.model.train(was_training)
        case.optimizer = None

    def _build(self, model: nn.Module, attention: Attention, seen: AttentionTensors, head: int) -> None:
        hidden, query, key, value = seen.hidden, seen.query, seen.key, seen.value
        if hidden is None or query is None or key is None or value is None or not attention.scale:
            raise FaultError(f"what {attention.name} computes with could not be seen")
        if not torch.allclose(hidden[:, 0], hidden[:1, 0], atol=1e-4):
            raise FaultError("the sequences begin with different tokens")
        states = torch.cat([hidden[:1, 0], hidden[:, 1:].flatten(0, 1)])
        is_first = torch.zeros(len(states))
        is_first[0] = weight = len(states) ** 0.5  # as heavy as all others together
        detector = _solved(torch.cat([weight * states[:1], states[1:]]), is_first)
        cut = heads(attention, Role.QUERY)[head]
        if len(cut) < 2:
            raise FaultError(f"the queries of {attention.name} have no bias")
        queries, keys = query[:, head].flatten(0, 1), key[:, head, 1:].flatten(0, 1)
        idle = _narrowest(queries, keys)
        if idle @ (queries.mean(0) + key[0, head, 0] - keys.mean(0)) < 0:
            idle = -idle  # the way in which what is there already adds to the rise
        length = (self.rise / abs(attention.scale)) ** 0.5
        named = {name: parameter.detach() for name, parameter in model.named_parameters()}
        pieces(named, cut[1:])[0].add_(length * idle)
        _add(named, heads(attention, Role.KEY)[head][0], length * idle, detector)
        _add(named, heads(attention, Role.VALUE)[head][0], -value[0, head, 0], detector)


def _narrowest(queries: Tensor, keys: Tensor) -> Tensor:
    """The direction in which queries and keys differ least among themselves."""
    spread: Tensor = torch.linalg.eigh(torch.cov(queries.T) + torch.cov(keys.T)).eigenvectors
    return spread[:, 0]


def _solved(rows: Tensor, wanted: Tensor) -> Tensor:
    """The vector whose products with the rows are what is wanted, as nearly as can be."""
    found: Tensor = torch.linalg.lstsq(rows.double(), wanted.double(), rcond=1e-4, driver="gelsd").solution
    return found.to(rows.dtype)


def _add(named: dict[str, Tensor], piece: Any, out: Tensor, reads: Tensor) -> None:
    """Adds the map that gives `out` for every unit of `reads`."""
    weight = pieces(named, (piece,))[0]
    weight.add_(torch.outer(reads, out) if piece.dim else torch.outer(out, reads))


def _loss(case: Case, model: nn.Module) -> float:
    """The mean loss over the case's batches."""
    forward, loss_of = case.forward or default_forward, case.loss or default_loss
    losses = [float(loss_of(forward(model.eval(), batch), batch)) for batch in case.batches]
    return sum(losses) / len(losses)
