"""What changes the bias: other optimisers, and weight decay."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.integrate import solve_ivp

from attnscope.margin import Constraints, MaxMargin
from attnscope.margin.nuclear import nuclear
from attnscope.margin.spectral import spectral
from attnscope.models.softmax_attention_flow import Flow, invariant, joint, merged, muon, normalised_descent, sign
from attnscope.studies import Claim, Part, at_least, at_most
from attnscope.studies._implicit_measures import Array, effective_rank, problem, ratio, start
from attnscope.tasks.token_margin import TokenMargin


def optimisers_part(scale: str) -> Part:
    """Each optimiser has its own norm; the nuclear bias belongs to gradient descent."""
    seeds = range(6 if scale == "paper" else 2)
    table: dict[str, list[float]] = {}
    for seed in seeds:
        _, flow, constraints = problem(TokenMargin(seed=seed))
        nuc, spec = nuclear(constraints), spectral(constraints)
        for name, direction in (("gradient", joint), ("Muon", muon), ("sign", sign)):
            path = normalised_descent(flow, start(seed, 10), [300.0], direction=direction, most_steps=60_000)
            if path.weights:
                table.setdefault(f"{name} nuclear", []).append(ratio(path.weights[-1], constraints, nuc))
                table.setdefault(f"{name} spectral", []).append(ratio(path.weights[-1], constraints, spec))
        adam_margin, adam_ratio = _adam(flow, constraints, nuc, start(seed, 10))
        table.setdefault("Adam margin", []).append(adam_margin)
        table.setdefault("Adam nuclear", []).append(adam_ratio)
    mean = {name: float(np.mean(values)) for name, values in table.items()}
    note = f"{len(seeds)} seeds, margin 300"
    return Part(
        claims=[
            at_most("normalised gradient descent: nuclear ratio", "optimisers", 1.03, mean["gradient nuclear"], note),
            at_most(
                "Muon (exact polar): spectral ratio",
                "optimisers, Gronich and Vardi 2026",
                1.05,
                mean["Muon spectral"],
                note,
            ),
            at_least("Muon: nuclear ratio (the nuclear bias is gone)", "optimisers", 1.3, mean["Muon nuclear"], note),
            at_least("sign descent: nuclear ratio (neither)", "optimisers", 1.1, mean["sign nuclear"], note),
            Claim(
                "Adam: nuclear ratio at its horizon",
                "optimisers",
                "no law",
                "a statement",
                mean["Adam nuclear"],
                True,
                f"margin {mean['Adam margin']:.0f} after 20000 steps: too small a horizon to conclude on Adam's limit",
            ),
        ]
    )


def _adam(flow: Flow, constraints: Constraints, best: MaxMargin, factors: Sequence[Array]) -> tuple[float, float]:
    """Adam (0.9, 0.999), no epsilon, rate 0.001, on the loss's true gradient up to its scale."""
    now = [part.copy() for part in factors]
    first = [np.zeros_like(part) for part in now]
    second = [np.zeros_like(part) for part in now]
    reference = flow.descent(merged(now))[1]
    for step in range(1, 20_001):
        gradient, log_factor, _ = flow.descent(merged(now))
        gradient = gradient * np.exp(log_factor - reference)
        for index, slope in enumerate((-gradient @ now[1], -gradient.T @ now[0])):
            first[index] = 0.9 * first[index] + 0.1 * slope
            second[index] = 0.999 * second[index] + 0.001 * slope**2
            size = np.sqrt(second[index] / (1 - 0.999**step)).clip(min=1e-290)
            now[index] = now[index] - 0.001 * first[index] / (1 - 0.9**step) / size
    weights = merged(now)
    return flow.margin(weights), ratio(weights, constraints, best)


def weight_decay_part() -> Part:
    """Under L2 decay the balance falls as exp(-2 lambda t), and so does the rank."""
    _, flow, _ = problem(TokenMargin(seed=0))
    key, query = start(0, 10, scale=1.0)
    before = np.linalg.norm(invariant((key, query)))
    errors, ranks = [], {}
    for decay in (0.0, 1e-3, 1e-2):
        offset = flow.descent(key @ query.T)[1]

        def slope(_: float, state: Array, decay: float = decay, offset: float = offset) -> Array:
            k, q = state[:100].reshape(10, 10), state[100:].reshape(10, 10)
            gradient, log_factor, _ = flow.descent(k @ q.T)
            gradient = gradient * np.exp(log_factor - offset)
            return np.concatenate([(gradient @ q - decay * k).ravel(), (gradient.T @ k - decay * q).ravel()])

        solved = solve_ivp(
            slope, (0, 3000), np.concatenate([key.ravel(), query.ravel()]), "LSODA", rtol=1e-9, atol=1e-12
        )
        k, q = solved.y[:100, -1].reshape(10, 10), solved.y[100:, -1].reshape(10, 10)
        ranks[decay] = effective_rank(k @ q.T)
        if decay == 1e-3:
            errors.append(abs(np.linalg.norm(invariant((k, q))) / before / np.exp(-2 * decay * 3000) - 1))
    return Part(
        claims=[
            at_most(
                "L2 decay 1e-3: ||K^T K - Q^T Q|| against exp(-2 lambda t), relative error",
                "derived",
                1e-4,
                float(max(errors)),
            ),
            at_most(
                "L2 decay 1e-2: effective rank at t = 3000 over no decay's",
                "Kobayashi et al. 2024",
                0.8,
                ranks[1e-2] / ranks[0.0],
                ", ".join(f"lambda {key:g}: {value:.2f}" for key, value in ranks.items()),
            ),
        ]
    )
