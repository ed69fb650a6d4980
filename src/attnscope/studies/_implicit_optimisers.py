"""What changes the bias: other optimisers, and weight decay."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.integrate import solve_ivp

from attnscope.margin.nuclear import nuclear
from attnscope.margin.spectral import spectral
from attnscope.models.softmax_attention_flow import Flow, invariant, joint, merged, muon, normalised_descent, sign
from attnscope.studies import Curve, Part, at_least, at_most
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
    adam_seeds, bound = (range(3), 300.0) if scale == "paper" else (range(1), 30.0)
    for seed in adam_seeds:
        _, flow, constraints = problem(TokenMargin(seed=seed))
        weights, steps = _adam(flow, start(seed, 10), bound)
        table.setdefault("Adam nuclear", []).append(ratio(weights, constraints, nuclear(constraints)))
        table.setdefault("Adam spectral", []).append(ratio(weights, constraints, spectral(constraints)))
        table.setdefault("Adam steps", []).append(steps)
        table.setdefault("Adam margin", []).append(flow.margin(weights))
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
            at_least(
                f"Adam: nuclear ratio at margin {bound:.0f} (no nuclear bias by then)",
                "optimisers, open",
                1.1,
                min(table["Adam nuclear"]),
                f"{len(adam_seeds)} seeds, rate 0.001, no epsilon, {mean['Adam steps']:.0f} steps to margin "
                f"{mean['Adam margin']:.0f}, nuclear ratios "
                + ", ".join(f"{value:.3f}" for value in table["Adam nuclear"])
                + f"; spectral ratio {mean['Adam spectral']:.3f}; what it tends to beyond this margin stays open",
            ),
        ]
    )


def _adam(flow: Flow, factors: Sequence[Array], bound: float, most_steps: int = 1_500_000) -> tuple[Array, int]:
    """W and the steps taken by Adam (0.9, 0.999), no epsilon, rate 0.001, on the true gradient up to its scale.

    The second moment forgets at 0.001 a step, so the margin cannot grow by more than about 0.0005 a step.
    """
    now = np.concatenate([part.ravel() for part in factors])
    shape, first, second = factors[0].shape, np.zeros_like(now), np.zeros_like(now)
    reference = flow.descent(merged(factors))[1]
    for step in range(1, most_steps + 1):
        key, query = now.reshape(2, *shape)
        gradient, log_factor, margin = flow.descent(key @ query.T)
        if margin >= bound:
            break
        gradient = gradient * np.exp(log_factor - reference)
        slope = np.concatenate([(gradient @ query).ravel(), (gradient.T @ key).ravel()])
        first += 0.1 * (slope - first)
        second += 0.001 * (slope**2 - second)
        size = np.sqrt(second / (1 - 0.999**step)).clip(min=1e-290)
        now += 0.001 / (1 - 0.9**step) * first / size
    key, query = now.reshape(2, *shape)
    return key @ query.T, step


def weight_decay_part() -> Part:
    """Under L2 decay the balance falls as exp(-2 lambda t), and so does the rank."""
    _, flow, _ = problem(TokenMargin(seed=0))
    key, query = start(0, 10, scale=1.0)
    before = np.linalg.norm(invariant((key, query)))
    ranks, decayed = {}, "balance under weight decay"
    for decay in (0.0, 1e-3, 1e-2):
        offset = flow.descent(key @ query.T)[1]

        def slope(_: float, state: Array, decay: float = decay, offset: float = offset) -> Array:
            k, q = state[:100].reshape(10, 10), state[100:].reshape(10, 10)
            gradient, log_factor, _ = flow.descent(k @ q.T)
            gradient = gradient * np.exp(log_factor - offset)
            return np.concatenate([(gradient @ q - decay * k).ravel(), (gradient.T @ k - decay * q).ravel()])

        solved = solve_ivp(
            slope, (0, 3000), np.concatenate([key.ravel(), query.ravel()]), "LSODA", rtol=1e-9, atol=1e-12,
            t_eval=np.linspace(0, 3000, 61),
        )  # fmt: skip
        k, q = solved.y[:100, -1].reshape(10, 10), solved.y[100:, -1].reshape(10, 10)
        ranks[decay] = effective_rank(k @ q.T)
        if decay == 1e-3:
            left = [float(np.linalg.norm(invariant(state.reshape(2, 10, 10))) / before) for state in solved.y.T]
            law = np.exp(-2 * decay * solved.t)
            errors = np.abs(np.array(left) / law - 1)
            curves = [
                Curve(decayed, "measured", solved.t.tolist(), left),
                Curve(decayed, "exp(-2 lambda t)", solved.t.tolist(), law.tolist(), reference=True),
            ]
    return Part(
        figures={decayed: ("t", "K^T K - Q^T Q, relative to the start")},
        curves=curves,
        claims=[
            at_most(
                "L2 decay 1e-3: ||K^T K - Q^T Q|| against exp(-2 lambda t), relative error up to t = 3000",
                "derived",
                1e-4,
                float(errors.max()),
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
