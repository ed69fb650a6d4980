"""The pattern and score measures written as the definitions read: loops over numbers, no tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from attnscope.anatomy.observe import AttentionTensors

Row = tuple[int, int, list[int], np.ndarray]


def rows_of(one: AttentionTensors, real: np.ndarray, head: int) -> Iterator[Row]:
    """(example, query, allowed keys, weights on all keys) of the rows of real queries."""
    pattern = one.pattern.double().numpy()
    allowed = np.ones(pattern.shape, bool)
    if one.allowed is not None:
        allowed = one.allowed.expand(one.pattern.shape).numpy()
    for example in range(pattern.shape[0]):
        for query in range(pattern.shape[2]):
            keys = [key for key in range(pattern.shape[3]) if allowed[example, head, query, key]]
            if real[example, query] and keys:
                yield example, query, keys, pattern[example, head, query]


def entropy(one: AttentionTensors, real: np.ndarray, head: int) -> float:
    shares = []
    for _, _, keys, weights in rows_of(one, real, head):
        if len(keys) < 2:
            continue
        nats = -sum(p * math.log(p) for p in weights / sum(weights) if p > 0)
        shares.append(nats / math.log(len(keys)))
    return float(np.mean(shares))


def floor(one: AttentionTensors, real: np.ndarray, head: int) -> float:
    scores = one.scores.double().numpy()
    shares = []
    for example, query, keys, _ in rows_of(one, real, head):
        n = len(keys)
        if n < 2:
            continue
        row = np.array([scores[example, head, query, key] for key in keys])
        norm = math.sqrt(sum((row - row.mean()) ** 2))
        beta = math.exp(-norm * math.sqrt(n / (n - 1)))
        nats = math.log(1 + (n - 1) * beta) + norm * math.sqrt(n * (n - 1)) * beta / (1 + (n - 1) * beta)
        shares.append(nats / math.log(n))
    return float(np.mean(shares))


def rank(one: AttentionTensors, real: np.ndarray, head: int) -> float:
    per_example: dict[int, list[np.ndarray]] = {}
    for example, _, _, weights in rows_of(one, real, head):
        per_example.setdefault(example, []).append(weights)
    ranks = []
    for stacked in per_example.values():
        values = np.linalg.svd(np.array(stacked), compute_uv=False)
        shares = values / values.sum()
        ranks.append(math.exp(-sum(s * math.log(s) for s in shares if s > 0)))
    return float(np.mean(ranks))


def similarity(one: AttentionTensors, real: np.ndarray, head: int) -> float:
    best = -math.inf
    own = [weights for *_, weights in rows_of(one, real, head)]
    for other in range(one.pattern.shape[1]):
        if other != head:
            theirs = [weights for *_, weights in rows_of(one, real, other)]
            distance = np.mean([abs(a - b).sum() / 2 for a, b in zip(own, theirs, strict=True)])
            best = max(best, 1 - float(distance))
    return best


def padding(one: AttentionTensors, real: np.ndarray, head: int) -> float:
    masses = [
        sum(weights[key] for key in range(len(weights)) if not real[example, key])
        for example, _, _, weights in rows_of(one, real, head)
        if not real[example].all()
    ]
    return float(np.mean(masses))


def future(one: AttentionTensors, real: np.ndarray, head: int) -> float:
    masses = [
        sum(weights[query + 1 :])
        for _, query, _, weights in rows_of(one, real, head)
        if query + 1 < len(weights)
    ]
    return float(np.mean(masses))


def first(one: AttentionTensors, real: np.ndarray, head: int) -> float:
    masses = [
        weights[int(np.argmax(real[example]))]
        for example, query, keys, weights in rows_of(one, real, head)
        if query != int(np.argmax(real[example])) and int(np.argmax(real[example])) in keys
    ]
    return float(np.mean(masses))


def row_sum(one: AttentionTensors, real: np.ndarray, head: int) -> float:
    return max(abs(sum(weights) - 1) for *_, weights in rows_of(one, real, head))


def uniform(one: AttentionTensors, real: np.ndarray, head: int) -> float:
    distances = []
    for _, _, keys, weights in rows_of(one, real, head):
        if len(keys) >= 2:
            ideal = np.array([1 / len(keys) if key in keys else 0.0 for key in range(len(weights))])
            distances.append(abs(weights - ideal).sum() / 2)
    return float(np.mean(distances))


def forbidden(one: AttentionTensors, real: np.ndarray, head: int) -> float:
    return max(
        max((weights[key] for key in range(len(weights)) if key not in keys), default=0.0)
        for _, _, keys, weights in rows_of(one, real, head)
    )


def positional(one: AttentionTensors, real: np.ndarray, head: int) -> float:
    """Share of the between-position variance in a one-way random model, cell by cell."""
    cells: dict[tuple[int, int], list[float]] = {}
    for _, query, keys, weights in rows_of(one, real, head):
        if len(keys) >= 2:
            for key in keys:
                cells.setdefault((query, key), []).append(weights[key] - 1 / len(keys))
    between, within = [], []
    for values in cells.values():
        if len(values) >= 2:
            spread = float(np.var(values, ddof=1))
            within.append(spread)
            between.append(np.mean(values) ** 2 - spread / len(values))
    position, content = max(float(np.mean(between)), 0.0), float(np.mean(within))
    return position / (position + content)


def largest(one: AttentionTensors, real: np.ndarray, head: int) -> float:
    scores = one.scores.double().numpy()
    return max(
        abs(scores[example, head, query, key])
        for example, query, keys, _ in rows_of(one, real, head) for key in keys
    )


def variance(one: AttentionTensors, real: np.ndarray, head: int) -> float:
    scores = one.scores.double().numpy()
    return float(np.mean([
        np.var([scores[example, head, query, key] for key in keys])
        for example, query, keys, _ in rows_of(one, real, head) if len(keys) >= 2
    ]))


def overflow(one: AttentionTensors, real: np.ndarray, head: int) -> float:
    raw: Any = one.raw_scores
    products = raw.double().numpy()
    top = max(
        abs(products[example, head, query, key])
        for example, query, keys, _ in rows_of(one, real, head) for key in keys
    )
    return max(top, largest(one, real, head)) / 65504
