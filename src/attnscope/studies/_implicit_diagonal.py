"""Diagonal factors: the l1 bias and its rate, the exact identities of Lemma A.1, and the sign trap."""

from __future__ import annotations

import numpy as np
from scipy.integrate import solve_ivp

from attnscope.margin import Constraints
from attnscope.margin.diagonal import diagonal, diagonal_rows
from attnscope.margin.frobenius import frobenius
from attnscope.models.softmax_attention_flow import REACHED, Flow, arc_length, dual_mass_flow
from attnscope.studies import Curve, Part, at_least, at_most, near
from attnscope.studies._implicit_measures import N_SEEDS, Array, problem, ratio, start
from attnscope.tasks.token_margin import TokenMargin


def diagonal_part(scale: str) -> Part:
    """Diagonal factors: l1 for (xi_k, xi_q), l2 for the merged diagonal, and how slowly."""
    margins = [10, 30, 100, 300, 1000, 3000, 10_000]
    ends, excess_rates, dual_rates, euclid = [], [], [], []
    part = Part(figures={"diagonal": ("margin", "norm over its max-margin value")})
    for seed in range(3 if scale == "smoke" else N_SEEDS[scale]):
        _, flow, constraints = problem(TokenMargin(d=20, score_gap=12.0, seed=seed))
        best = diagonal(constraints)
        path = dual_mass_flow(flow, 1.0, margins)
        if path.status != REACHED:
            continue
        found = np.array([ratio(weights, constraints, best) for weights in path.weights])
        ends.append(found[-1])
        logs = np.log(np.array(margins, float))
        excess_rates.append(((found - 1) * logs**2)[[3, -1]])
        dual_rates.append(
            [
                _dual_error(flow, weights) * np.log(margin)
                for margin, weights in zip(np.array(margins)[[3, -1]], np.array(path.weights)[[3, -1]], strict=True)
            ]
        )
        rows = diagonal_rows(constraints)
        euclid.append(_euclidean_ratio(flow, rows))
        if seed == 0:
            part.curves.append(Curve("diagonal", "l1 ratio of (xi_k, xi_q)", margins, found.tolist()))
    spread = f"{len(ends)} seeds, n 6, L 5, d 20, omega 1, dual-mass clock"
    rates, duals = np.array(excess_rates), np.array(dual_rates)
    part.claims = [
        at_most("diagonal: l1 ratio at margin 10000", "theorem 4.1", 1.02, float(np.mean(ends)), spread),
        near(
            "diagonal: excess of the norm falls as 1/ln^2 (excess times ln^2, margin 10000 over 300)",
            "rate, derived",
            1.0,
            float(np.median(rates[:, 1] / rates[:, 0])),
            0.35,
            spread,
        ),
        near(
            "diagonal: dual error falls as 1/ln (error times ln, margin 10000 over 300)",
            "rate, derived",
            1.0,
            float(np.median(duals[:, 1] / duals[:, 0])),
            0.15,
            spread,
        ),
        at_most(
            "merged diagonal: l2 ratio at margin 1000",
            "Frobenius bias on the diagonal",
            1.01,
            float(np.max(euclid)),
            spread,
        ),
    ]
    return part


def _dual_error(flow: Flow, weights: Array) -> float:
    """Max |arcsinh(beta / omega^2)| / ln margin - 1: how far the dual certificate is outside the unit box."""
    beta = np.diag(weights)
    return float(np.abs(np.arcsinh(beta)).max() / np.log(flow.margin(weights)) - 1)


def _euclidean_ratio(flow: Flow, rows: Array) -> float:
    """l2 ratio of the flow on one diagonal (no factors), at margin 1000."""
    beta = np.zeros(rows.shape[1])
    for _ in range(200_000):
        gradient, _, margin = flow.descent(np.diag(beta))
        if margin >= 1000:
            break
        step = np.diag(gradient)
        beta = beta + max(0.02, 0.002 * float(np.linalg.norm(beta))) * step / np.linalg.norm(step)
    best = _least_euclidean(rows)
    return float(np.linalg.norm(beta / (rows @ beta).min()) / best)


def _least_euclidean(rows: Array) -> float:
    """Min ||beta||_2 with rows beta >= 1: the Frobenius problem of one query, token by token."""
    return frobenius(Constraints(rows[None], np.ones((1, 1)))).value


def identities_part() -> Part:
    """Lemma A.1 along an independent integration: beta = omega^2 sinh(B phi), and what is conserved."""
    worst_beta, worst_conserved, worst_factored = 0.0, 0.0, 0.0
    for seed in (0, 1):
        _, flow, constraints = problem(TokenMargin(d=12, score_gap=12.0, seed=seed))
        rows, omega = diagonal_rows(constraints), 0.5
        d, count = rows.shape[1], len(rows)

        def slope(_: float, state: Array, flow: Flow = flow, d: int = d, rows: Array = rows) -> Array:
            key, query = state[:d], state[d : 2 * d]
            gradient, log_factor, _ = flow.descent(np.diag(key * query))
            masses = flow.rates(rows @ (key * query))[0] * np.exp(log_factor)
            direct = np.diag(gradient) * np.exp(log_factor)
            # phi' = 2 x the constraint's weight in -dL/dbeta, whatever the clock
            return np.concatenate([direct * query, direct * key, 2 * masses])

        begin = np.concatenate([np.full(d, np.sqrt(2) * omega), np.zeros(d), np.zeros(count)])
        solved = solve_ivp(slope, (0, 300), begin, "DOP853", rtol=1e-12, atol=1e-14)
        key, query, phi = solved.y[:d], solved.y[d : 2 * d], solved.y[2 * d :]
        beta, theory = key * query, omega**2 * np.sinh(rows.T @ phi)
        worst_beta = max(worst_beta, float(np.abs(beta - theory).max() / np.abs(beta).max()))
        conserved = key**2 - query**2 - 2 * omega**2
        worst_conserved = max(worst_conserved, float(np.abs(conserved).max() / (key**2).max()))
        _, flow, _ = problem(TokenMargin(seed=seed))
        worst_factored = max(worst_factored, arc_length(flow, start(seed, 10), [100.0]).drift)
    return Part(
        claims=[
            at_most(
                "beta = omega^2 sinh(B phi) along the flow", "lemma A.1", 1e-9, worst_beta, "2 seeds, DOP853 at 1e-12"
            ),
            at_most("xi_k^2 - xi_q^2 is conserved", "lemma A.1", 1e-9, worst_conserved, "2 seeds"),
            at_most(
                "K^T K - Q^T Q is conserved to margin 100", "section 2", 1e-8, worst_factored, "2 seeds, DOP853 at 1e-8"
            ),
        ]
    )


def sign_trap_part(scale: str) -> Part:
    """An exactly balanced start can never flip a sign, so it must miss the l1 solution."""
    ratios, flips, free = [], 0, []
    seeds = (1, 2) if scale == "smoke" else range(N_SEEDS[scale])
    for seed in seeds:
        _, flow, constraints = problem(TokenMargin(d=20, score_gap=12.0, seed=seed))
        best = diagonal(constraints)
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=20)
        balanced = (np.full(20, 0.1), 0.1 * signs)
        path = arc_length(flow, balanced, [30.0], longest=2000.0)
        beta = path.factors[0] * path.factors[1]
        flips += int((np.sign(beta) * signs < 0).sum())
        if path.weights:
            ratios.append(ratio(path.weights[-1], constraints, best))
        freed = arc_length(flow, (np.full(20, np.sqrt(2) * 0.1), np.zeros(20)), [30.0], longest=2000.0)
        free.append(ratio(freed.weights[-1], constraints, best))
    never = len(list(seeds)) - len(ratios)
    return Part(
        claims=[
            at_most(
                "balanced start: coordinates whose sign flips", "initialisation (5), derived trap", 0, float(flips)
            ),
            at_least(
                "balanced start: median l1 ratio at margin 30 over the unbalanced start's",
                "initialisation (5), derived trap",
                1.2,
                float(np.median(ratios) / np.median(free)) if ratios else float("inf"),
                f"{len(ratios)} runs reached margin 30, {never} never did",
            ),
        ]
    )
