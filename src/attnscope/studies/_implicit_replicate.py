"""The nearest published experiment: Tarzanagh et al. 2023, Transformers as Support Vector Machines, local convergence.

Six samples of eight unit tokens in ten dimensions with a unit query each, random scores and labels, logistic loss,
factors that start as a linear layer does, and 2000 steps along each factor's gradient, normalised. The direction is
compared with both max-margin solutions for the tokens that it selected. The gradient is formed in the log domain,
so it needs no penalty against underflow, which the published code has.
"""

from __future__ import annotations

import numpy as np

from attnscope.margin import Constraints, MarginError
from attnscope.margin.frobenius import frobenius
from attnscope.margin.nuclear import nuclear
from attnscope.models.softmax_attention_flow import merged
from attnscope.studies import Part, at_least
from attnscope.studies._implicit_measures import Array

STEPS, RATE = 2000, 0.1


def replicate_part(scale: str) -> Part:
    """Correlation of the direction with the Frobenius and with the nuclear solution, for W and for (K, Q)."""
    n_seeds = 30 if scale == "paper" else 6
    found: dict[str, list[float]] = {"W fro": [], "W nuc": [], "KQ nuc": [], "KQ fro": []}
    refused = 0
    for seed in range(n_seeds):
        tokens, queries, gains, start = _draw(seed)
        for name, factors in (("W", start[:1]), ("KQ", start[1:])):
            weights, selected = _descend(tokens, queries, gains, factors)
            constraints = _constraints(tokens, queries, selected)
            try:
                solutions = {"fro": frobenius(constraints).weights, "nuc": nuclear(constraints).weights}
            except MarginError:  # it has not settled on tokens that one W can select
                refused += 1
                continue
            for norm, solution in solutions.items():
                found[f"{name} {norm}"].append(_correlation(weights, solution))
    mean = {name: float(np.mean(values)) for name, values in found.items()}
    medians = ", ".join(f"{name} {np.median(values):.3f}" for name, values in found.items())
    note = (
        f"mean of {n_seeds} seeds ({refused} of {2 * n_seeds} runs selected tokens that no W separates), n 6, T 8, "
        f"d 10, {STEPS} steps; medians {medians}"
    )
    place = "Tarzanagh et al. 2023, local convergence"
    return Part(
        claims=[
            at_least("merged W: correlation with the Frobenius solution", place, 0.98, mean["W fro"], note),
            at_least("(K, Q): correlation with the nuclear solution", place, 0.97, mean["KQ nuc"], note),
            at_least(
                "each is closer to its own solution (smaller of the two differences)",
                place,
                0.05,
                min(mean["W fro"] - mean["W nuc"], mean["KQ nuc"] - mean["KQ fro"]),
                note,
            ),
        ]
    )


def _draw(seed: int) -> tuple[Array, Array, Array, tuple[Array, ...]]:
    """Tokens, queries, y v^T x for each token, and the starts of W, K and Q."""
    draw = np.random.default_rng(500 + seed)
    tokens, queries = draw.normal(size=(6, 8, 10)), draw.normal(size=(6, 10))
    tokens /= np.linalg.norm(tokens, axis=-1, keepdims=True)
    queries /= np.linalg.norm(queries, axis=-1, keepdims=True)
    head = draw.normal(size=10)
    labels = draw.choice([-1.0, 1.0], size=6)
    start = tuple(draw.uniform(-1, 1, size=(10, 10)) / 10**0.5 for _ in range(3))
    return tokens, queries, labels[:, None] * (tokens @ (head / np.linalg.norm(head))), start


def _descend(tokens: Array, queries: Array, gains: Array, factors: tuple[Array, ...]) -> tuple[Array, Array]:
    """W at the end, and the token that each sample selected."""
    now = tuple(part.copy() for part in factors)
    for _ in range(STEPS):
        gradient, _ = _descent(tokens, queries, gains, merged(now))
        slopes = (gradient,) if len(now) == 1 else (gradient @ now[1], gradient.T @ now[0])
        now = tuple(part + RATE * slope / np.linalg.norm(slope) for part, slope in zip(now, slopes, strict=True))
    weights = merged(now)
    return weights, _descent(tokens, queries, gains, weights)[1]


def _descent(tokens: Array, queries: Array, gains: Array, weights: Array) -> tuple[Array, Array]:
    """Minus the gradient of the logistic loss up to a positive factor, and the likeliest token of each sample.

    sum_l p_l (g_l - mean g) x_l is the same with x_l - x_top, where the top token has no part, so that what is
    left can be taken relative to its largest term.
    """
    scores = np.einsum("ild,de,ie->il", tokens, weights, queries)
    top = scores.argmax(1)
    logs = scores - scores.max(1, keepdims=True)
    shares = np.exp(logs) / np.exp(logs).sum(1, keepdims=True)
    mean = (shares * gains).sum(1, keepdims=True)
    away = logs - np.log(np.exp(logs).sum(1, keepdims=True))
    away[np.arange(len(top)), top] = -np.inf
    pull = np.exp(away - away.max()) * (gains - mean) / (1 + np.exp(mean))
    apart = tokens - tokens[np.arange(len(top)), top][:, None]
    return np.asarray(np.einsum("il,ild,ie->de", pull, apart, queries)), top


def _constraints(tokens: Array, queries: Array, selected: Array) -> Constraints:
    others = [np.delete(sample, best, axis=0) for sample, best in zip(tokens, selected, strict=True)]
    chosen = tokens[np.arange(len(selected)), selected]
    return Constraints(chosen[:, None] - np.stack(others), queries)


def _correlation(left: Array, right: Array) -> float:
    return float((left * right).sum() / np.linalg.norm(left) / np.linalg.norm(right))
