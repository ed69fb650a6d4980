"""The balance of a head, W_K W_K^T - W_Q W_Q^T, and the law by which plain gradient descent moves it.

From the identity W_Q (dL/dW_Q)^T = (dL/dW_K) W_K^T, one step of gradient descent with rate eta and L2 decay lambda
takes the balance C to exactly

    (1 - eta lambda)^2 C + eta^2 (dL/dW_K (dL/dW_K)^T - dL/dW_Q (dL/dW_Q)^T),

so under gradient flow it is constant, or falls as exp(-2 lambda t). Momentum and per-number rates (Adam) leave no
such law. Biases are further columns; query heads that share a key are summed; rotary positions leave the trace of
each plane.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attnscope.anatomy.blocks import Attention
from attnscope.lenses._factors import THRESHOLDS, Factor, Factors
from attnscope.lenses._optimizer import groups_by_parameter
from attnscope.lenses._query_key_identity import Identity, identity_of
from attnscope.probe import Probe


@dataclass(frozen=True)
class Law:
    """Plain gradient descent.

    Attributes:
        rate: of a step now.
        highest: of a step so far, as a schedule keeps it.
        decay: L2.
        scheduled: whether a schedule has set other rates before.
    """

    rate: float
    highest: float
    decay: float
    scheduled: bool

    @property
    def kept(self) -> float:
        """What one step keeps of the balance."""
        return (1 - self.rate * self.decay) ** 2


@dataclass(frozen=True)
class Lawful:
    """An attention to which the law applies: its gradients satisfy the identity at this moment."""

    attention: Attention
    law: Law
    identity: Identity


def lawful(probe: Probe, factors: Factors, precision: str) -> tuple[dict[int, Lawful], dict[str, str]]:
    """Index of an attention -> its law; and name -> why there is none for the others."""
    groups = groups_by_parameter(probe)
    found: dict[int, Lawful] = {}
    skipped: dict[str, str] = {}
    for index, attention in enumerate(probe.anatomy.attentions):
        law = _law(probe, attention, factors, groups)
        if isinstance(law, str):
            skipped[attention.name] = law
            continue
        identity = identity_of(attention, factors, precision)
        known = [value for value in identity.residuals if value == value]
        if not known or max(known) > THRESHOLDS[precision]:
            skipped[attention.name] = "its gradients do not satisfy the identity from which the law follows"
            continue
        found[index] = Lawful(attention, law, identity)
    return found, skipped


def _law(probe: Probe, attention: Attention, factors: Factors, groups: dict[str, dict[str, Any]]) -> Law | str:
    if probe.optimizer is None:
        return "no optimiser is given; pass Case(..., optimizer=...)"
    kind = type(probe.optimizer)
    if kind is not torch.optim.SGD:
        return f"{kind.__name__} keeps no balance: only plain gradient descent does"
    pieces = {role: [piece.parameter for piece in factors.pieces(attention, role)] for role in ("query", "key")}
    if not all(pieces.values()):
        return "queries or keys have no projection of their own"
    if set(attention.blocks.get(role, role) for role in pieces) == {attention.blocks.get("query")}:
        return "queries and keys share their weights"
    names = {name for held in pieces.values() for name in held}
    trainable = {name for name, parameter in probe.model.named_parameters() if parameter.requires_grad}
    if not names <= set(groups) or not names <= trainable:
        return "the optimiser does not move both queries and keys"
    settings = {_settings(groups[name]) for name in names}
    if len(settings) > 1:
        return "queries, keys and their biases have different rates or decays"
    rate, highest, decay, momentum = settings.pop()
    if momentum:
        return "with momentum the update is not the gradient"
    return Law(rate, highest, decay, any("initial_lr" in groups[name] for name in names))


def _settings(group: dict[str, Any]) -> tuple[float, float, float, bool]:
    rate = float(group["lr"])
    highest = max(rate, float(group.get("initial_lr", rate)))  # schedules leave the first rate there
    return rate, highest, float(group.get("weight_decay", 0)), bool(group.get("momentum", 0))


@dataclass(frozen=True)
class Grams:
    """W_K W_K^T and W_Q W_Q^T of one key head (what its positions leave of them), and the squares of both norms."""

    key: Tensor
    query: Tensor
    size: float

    @property
    def balance(self) -> Tensor:
        """Their difference."""
        return self.key - self.query


def grams(item: Lawful, factors: Factors, head: int, *, of_gradient: bool = False) -> Grams | None:
    """The Gram matrices of a key head and of the query heads that share it; of the weights or of their gradients."""
    key = factors.head(item.attention, "key", head)
    queries = [factors.head(item.attention, "query", query) for query in item.identity.groups[head]]
    held = [query for query in queries if query is not None]
    if key is None or len(held) != len(queries):
        return None
    form = item.identity.compared
    own = _matrix(key, of_gradient)
    others = [_matrix(query, of_gradient) for query in held]
    gram = form(others[0] @ others[0].T)
    for other in others[1:]:
        gram = gram + form(other @ other.T)
    size = float(own.square().sum() + sum(other.square().sum() for other in others))
    return Grams(form(own @ own.T), gram, size)


def _matrix(factor: Factor, of_gradient: bool) -> Tensor:
    return factor.gradient if of_gradient else factor.weight


def moved(before: Grams, after: Grams, kept: float = 1.0) -> float:
    """How far both Gram matrices moved, beyond what decay takes of them."""
    return float((after.key - kept * before.key).norm() + (after.query - kept * before.query).norm())


def rounding(before: Grams, after: Grams, precision: str) -> float:
    """What rounding of the weights alone can move the balance by."""
    eps = float(torch.finfo(getattr(torch, precision)).eps)
    return eps * (before.size + after.size)
