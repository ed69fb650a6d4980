"""The identity W_Q (dL/dW_Q)^T = (dL/dW_K) W_K^T of one attention, per head, in the form that its positions leave."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from attnscope.anatomy.blocks import Attention
from attnscope.lenses._factors import THRESHOLDS, Factors, Form, head_groups, product_forms, residual, worst


@dataclass(frozen=True)
class Identity:
    """What was compared of one attention.

    Attributes:
        residuals: per key head.
        form: its name, `matrix` unless rotary positions leave less.
        compared: what is taken of the products W dW^T.
        groups: per key head its query heads.
    """

    residuals: list[float]
    form: str
    compared: Form
    groups: list[list[int]]


def identity_of(attention: Attention, factors: Factors, precision: str) -> Identity:
    """The residual of every key head, with the grouping and the form of the identity that fit best."""
    forms = product_forms("rotary" in attention.positions)
    best: Identity | None = None
    for grouping in head_groups(attention):
        for name, form in forms.items():
            row = [_head(attention, factors, head, group, form, precision) for head, group in enumerate(grouping)]
            if best is None or worst(row) < worst(best.residuals):
                best = Identity(row, name, form, grouping)
            if worst(row) <= THRESHOLDS[precision]:
                return Identity(row, name, form, grouping)
    return best if best is not None else Identity([], "", torch.clone, [])


def _head(
    attention: Attention,
    factors: Factors,
    head: int,
    group: list[int],
    form: Form,
    precision: str,
) -> float:
    key = factors.head(attention, "key", head)
    queries = [factors.head(attention, "query", query) for query in group]
    if key is None or any(query is None for query in queries):
        return float("nan")
    left = sum((form(query.weight @ query.gradient.T) for query in queries if query is not None), torch.zeros(()))
    right = form(key.gradient @ key.weight.T)
    if left.shape != right.shape:
        return float("nan")
    size = max(key.size, *(query.size for query in queries if query is not None))
    return residual(left, right, size, precision)
