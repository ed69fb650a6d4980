"""Sheen, Chen, Wang and Zhou (2024): the implicit bias of gradient flow on softmax attention, each theorem measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from scipy.integrate import solve_ivp

from attnscope.margin import Constraints, MaxMargin, matrix_norm
from attnscope.margin.diagonal import diagonal, diagonal_rows
from attnscope.margin.frobenius import frobenius
from attnscope.margin.nuclear import nuclear
from attnscope.margin.spectral import spectral
from attnscope.models.softmax_attention_flow import (
    REACHED,
    Flow,
    Trajectory,
    arc_length,
    dual_mass_flow,
    invariant,
    joint,
    merged,
    muon,
    normalised_descent,
    sign,
    time_flow,
)
from attnscope.studies import Claim, Curve, Part, Study, at_least, at_most, near
from attnscope.studies._implicit_extensions import extension_part
from attnscope.tasks.token_margin import TokenMargin, TokenMarginData, aligned_nuclear_norm

Array = npt.NDArray[np.float64]
N_SEEDS = {"smoke": 2, "small": 8, "paper": 20}


@dataclass(frozen=True)
class Sheen2024implicit(Study):
    """Implicit regularisation of one-layer softmax attention: the paper has theorems, this measures them."""

    title: ClassVar[str] = "Implicit Regularization of Gradient Flow on One-Layer Softmax Attention"
    reference: ClassVar[str] = "Sheen, Chen, Wang, Zhou, 2024, arXiv:2403.08699"

    def parts(self, scale: str) -> list[tuple[str, Callable[[], Part]]]:
        """Norm separation, diagonal flow, exact identities, alignment, growth, traps, optimisers, decay, extensions."""
        found: list[tuple[str, Callable[[], Part]]] = [
            ("nuclear against Frobenius", partial(_separation, scale)),
            ("diagonal factors", partial(_diagonal, scale)),
            ("exact identities", _identities),
            ("aligned data", partial(_aligned, scale)),
            ("margin growth", _growth),
            ("sign trap", partial(_sign_trap, scale)),
        ]
        if scale != "smoke":
            found += [
                ("narrow factors", partial(_narrow, scale)),
                ("initial-loss assumption", partial(_violated, scale)),
                ("optimisers", partial(_optimisers, scale)),
                ("weight decay", _weight_decay),
                ("Tarzanagh et al.", partial(_tarzanagh, scale)),
                ("extensions", partial(extension_part, scale)),
            ]
        return found


def problem(task: TokenMargin) -> tuple[TokenMarginData, Flow, Constraints]:
    """Data, flow and constraints of one draw."""
    data = task.draw()
    return data, Flow(data.differences, data.queries, data.score_gap), Constraints(data.differences, data.queries)


def start(seed: int, d: int, d_e: int | None = None, scale: float = 0.03) -> tuple[Array, Array]:
    """Gaussian (K, Q) with standard deviation scale / sqrt(d)."""
    draw = np.random.default_rng(10_000 + seed)
    shape = (d, d if d_e is None else d_e)
    return draw.normal(size=shape) * scale / d**0.5, draw.normal(size=shape) * scale / d**0.5


def ratio(weights: Array, constraints: Constraints, best: MaxMargin) -> float:
    """||W / margin|| over the least such norm: at least 1, and 1 in the limit of a bias to that norm."""
    return matrix_norm(weights / constraints.margins(weights).min(), best.norm) / best.value


def effective_rank(weights: Array) -> float:
    """Exp of the entropy of the normalised singular values (Roy and Vetterli, 2007)."""
    values = np.linalg.svd(weights, compute_uv=False)
    share = values / values.sum()
    return float(np.exp(-(share * np.log(share.clip(min=1e-300))).sum()))


def _separation(scale: str) -> Part:
    n_seeds = N_SEEDS[scale]
    rows: list[dict[str, float]] = []
    part = Part(figures={"norm ratios": ("margin", "norm over its max-margin value")})
    for seed in range(n_seeds):
        _, flow, constraints = problem(TokenMargin(seed=seed))
        best_nuc, best_fro = nuclear(constraints), frobenius(constraints)
        key, query = start(seed, 10)
        factored = normalised_descent(flow, (key, query), [3, 10, 30, 100, 300, 1000])
        whole = normalised_descent(flow, (key @ query.T,), [3, 10, 30, 100], lr=0.02)
        row = {}
        for name, path in (("KQ", factored), ("W", whole)):
            for margin, weights in zip(path.margins, path.weights, strict=True):
                row[f"{name} nuc {margin}"] = ratio(weights, constraints, best_nuc)
                row[f"{name} fro {margin}"] = ratio(weights, constraints, best_fro)
            row[f"{name} rank"] = effective_rank(path.weights[-1])
        row["drift"] = factored.drift
        rows.append(row)
    every = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    note = f"{n_seeds} seeds, n 6, L 5, d 10, gap 16, normalised descent"

    def spread(key: str) -> str:
        return f"{note}; mean {every[key].mean():.4f}, from {every[key].min():.4f} to {every[key].max():.4f}"

    part.claims = [
        at_most(
            "(K, Q): nuclear ratio at margin 100",
            "theorem 5.1, outside its data",
            1.05,
            float(every["KQ nuc 100"].max()),
            spread("KQ nuc 100"),
        ),
        at_most(
            "(K, Q): nuclear ratio at margin 1000",
            "theorem 5.1, outside its data",
            1.03,
            float(every["KQ nuc 1000"].max()),
            spread("KQ nuc 1000"),
        ),
        at_least(
            "(K, Q): Frobenius ratio at margin 100",
            "against merged W",
            1.1,
            float(every["KQ fro 100"].min()),
            spread("KQ fro 100"),
        ),
        at_most(
            "merged W: Frobenius ratio at margin 100",
            "Tarzanagh et al. 2023",
            1.02,
            float(every["W fro 100"].max()),
            spread("W fro 100"),
        ),
        at_least(
            "merged W: nuclear ratio at margin 100",
            "against (K, Q)",
            1.15,
            float(every["W nuc 100"].min()),
            spread("W nuc 100"),
        ),
        at_least(
            "no overlap: smallest nuclear ratio of W less the largest of (K, Q)",
            "theorem 5.1",
            0.05,
            float(every["W nuc 100"].min() - every["KQ nuc 100"].max()),
            note,
        ),
        at_most(
            "effective rank of (K, Q) over that of W",
            "low rank",
            0.6,
            float((every["KQ rank"] / every["W rank"]).mean()),
            note,
        ),
        at_least(
            "both ratios are at least 1, always",
            "definition",
            1 - 1e-6,
            float(min(values.min() for key, values in every.items() if " nuc " in key or " fro " in key)),
            note,
        ),
    ]
    for name, kind in (("KQ", "nuc"), ("KQ", "fro"), ("W", "nuc"), ("W", "fro")):
        margins = [margin for margin in (3, 10, 30, 100, 300, 1000) if f"{name} {kind} {margin}" in every]
        part.curves.append(
            Curve(
                "norm ratios",
                f"{'(K, Q)' if name == 'KQ' else 'W'}, {'nuclear' if kind == 'nuc' else 'Frobenius'}",
                margins,
                [float(every[f"{name} {kind} {margin}"].mean()) for margin in margins],
            )
        )
    return part


def _diagonal(scale: str) -> Part:
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
        beta = beta + max(0.02, 0.002 * np.linalg.norm(beta)) * step / np.linalg.norm(step)
    best = _least_euclidean(rows)
    return float(np.linalg.norm(beta / (rows @ beta).min()) / best)


def _least_euclidean(rows: Array) -> float:
    """Min ||beta||_2 with rows beta >= 1: the Frobenius problem of one query, token by token."""
    return frobenius(Constraints(rows[None], np.ones((1, 1)))).value


def _identities() -> Part:
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


def _aligned(scale: str) -> Part:
    """On the general theorem's own data: alignment is kept, and the norms cannot be told apart."""
    off, nuc_kq, nuc_w, closed = [], [], [], []
    for seed in range(1 if scale == "smoke" else 3):
        data, flow, constraints = problem(TokenMargin(kind="aligned", seed=seed))
        best = nuclear(constraints)
        closed.append(abs(best.value / aligned_nuclear_norm(data) - 1))
        unit = data.optimal / np.linalg.norm(data.optimal, axis=1, keepdims=True)
        frame = np.linalg.qr(np.vstack([unit, np.eye(10)]).T)[0]
        key, query = np.sqrt(2) * 0.03 * frame, np.zeros((10, 10))
        path = arc_length(flow, (key, query), [100.0] if scale == "smoke" else [100.0, 1000.0])
        whole = normalised_descent(flow, (1e-6 * np.eye(10),), [100.0], lr=0.02)
        rotated = frame.T @ path.weights[-1] @ frame
        off.append(float(np.linalg.norm(rotated - np.diag(np.diag(rotated))) / np.linalg.norm(rotated)))
        nuc_kq.append(ratio(path.weights[-1], constraints, best))
        nuc_w.append(ratio(whole.weights[-1], constraints, best))
    margin = 100 if scale == "smoke" else 1000
    note = f"{len(off)} seeds"
    return Part(
        claims=[
            at_most(
                "aligned data: closed form of the nuclear norm (relative error)", "derived", 1e-6, max(closed), note
            ),
            at_most(f"aligned start: off-diagonal mass at margin {margin}", "lemma 5.1", 1e-6, max(off), note),
            at_most(
                f"aligned (K, Q): nuclear ratio at margin {margin}",
                "theorem 5.1",
                1.02 if margin == 100 else 1.005,
                max(nuc_kq),
                note,
            ),
            at_most(
                "aligned merged W: nuclear ratio too, so this data cannot separate the norms",
                "derived",
                1.01,
                max(nuc_w),
                note,
            ),
        ]
    )


def _growth() -> Part:
    """Mu - ln t: constant for merged W, growing as ln ln t for (K, Q)."""
    _, flow, _ = problem(TokenMargin(seed=0))
    key, query = start(0, 10)
    margins = [20.0, 60.0, 200.0, 600.0]
    factored = time_flow(flow, (key, query), margins, rtol=1e-6)
    whole = time_flow(flow, (key @ query.T,), margins, rtol=1e-6)
    slow = np.array(factored.margins) - factored.log_time
    flat = np.array(whole.margins) - whole.log_time
    logs = np.log(np.array(factored.log_time))
    slope = float(np.polyfit(logs, slow, 1)[0])
    return Part(
        claims=[
            near(
                "(K, Q): slope of margin - ln t against ln ln t",
                "growth law, derived",
                1.0,
                slope,
                0.1,
                f"margins {margins}",
            ),
            at_most(
                "merged W: change of margin - ln t from margin 60 to 600",
                "growth law, derived",
                0.2,
                float(abs(flat[-1] - flat[1])),
                f"{flat.round(3).tolist()}",
            ),
        ],
        curves=[
            Curve("margin growth", "(K, Q)", logs.tolist(), slow.tolist()),
            Curve("margin growth", "merged W", np.log(np.array(whole.log_time)).tolist(), flat.tolist()),
        ],
        figures={"margin growth": ("ln ln t", "margin - ln t")},
    )


def _sign_trap(scale: str) -> Part:
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


def _narrow(scale: str) -> Part:
    """Factors narrower than d: the bias holds once d_e exceeds the rank of the max-margin solution."""
    found: dict[int, list[float]] = {1: [], 2: [], 3: [], 5: [], 10: []}
    ranks = []
    for seed in range(12 if scale == "paper" else 4):
        _, flow, constraints = problem(TokenMargin(seed=seed))
        best = nuclear(constraints)
        ranks.append(best.rank())
        for width, ratios in found.items():
            path = normalised_descent(flow, start(seed, 10, width), [1000.0], most_steps=20_000)
            if path.weights:
                ratios.append(ratio(path.weights[-1], constraints, best))
    means = {width: float(np.mean(values)) for width, values in found.items() if values}
    return Part(
        claims=[
            at_most(
                f"d_e {width}: mean nuclear ratio at margin 1000",
                "rank condition d_e >= d relaxed",
                1.03,
                means[width],
                f"{len(found[width])} runs; rank of the max-margin solution {np.mean(ranks):.1f} on average",
            )
            for width in (3, 5, 10)
        ]
        + [
            at_least(
                "d_e 1: mean nuclear ratio exceeds the full width's",
                "rank condition",
                0.01,
                means[1] - means[10],
                ", ".join(f"d_e {width}: {value:.4f}" for width, value in means.items()),
            )
        ]
    )


def _violated(scale: str) -> Part:
    """The initial-loss assumption is sufficient, not necessary."""
    n_seeds = N_SEEDS["paper"] if scale == "paper" else 8
    reached: dict[float, int] = {}
    for gap in (0.5, 4.0, 12.0):
        reached[gap] = 0
        for seed in range(n_seeds):
            _, flow, _ = problem(TokenMargin(seed=seed, score_gap=gap))
            path = normalised_descent(flow, start(seed, 10), [10.0], most_steps=4000)
            reached[gap] += path.status == REACHED
    note = ", ".join(f"gap {gap:g}: {count} of {n_seeds}" for gap, count in reached.items())
    return Part(
        claims=[
            at_least(
                "gap 12 (assumption 3 holds): share of runs that separate",
                "assumption 3",
                1.0,
                reached[12.0] / n_seeds,
                note,
            ),
            at_least(
                "gap 0.5 (assumption 3 fails): share of runs that separate all the same",
                "assumption 3 is not necessary",
                0.75,
                reached[0.5] / n_seeds,
                note,
            ),
        ]
    )


def _optimisers(scale: str) -> Part:
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


def _weight_decay() -> Part:
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


def _tarzanagh(scale: str) -> Part:
    """The nearest published experiment: correlation of the direction with both max-margin solutions."""
    found: dict[str, list[float]] = {"W fro": [], "W nuc": [], "KQ nuc": [], "KQ fro": []}
    for seed in range(30 if scale == "paper" else 6):
        _, flow, constraints = problem(TokenMargin(n_tokens=8, seed=500 + seed, score_gap=16.0))
        fro, nuc = frobenius(constraints).weights, nuclear(constraints).weights
        key, query = start(seed, 10)
        for name, factors, lr in (("W", (key @ query.T,), 0.1), ("KQ", (key, query), 0.02)):
            path = normalised_descent(flow, factors, [1e9], lr=lr, most_steps=2000)
            weights = merged(path.factors)
            found[f"{name} fro"].append(_correlation(weights, fro))
            found[f"{name} nuc"].append(_correlation(weights, nuc))
    mean = {name: float(np.median(values)) for name, values in found.items()}
    note = f"median of {len(found['W fro'])} seeds, n 6, T 8, d 10, 2000 steps"
    return Part(
        claims=[
            at_least(
                "merged W: correlation with the Frobenius solution",
                "Tarzanagh et al., about 0.99",
                0.98,
                mean["W fro"],
                note,
            ),
            at_least("(K, Q): correlation with the nuclear solution", "Tarzanagh et al.", 0.97, mean["KQ nuc"], note),
            at_least(
                "each is closer to its own solution (smaller of the two differences)",
                "Tarzanagh et al.",
                0.05,
                min(mean["W fro"] - mean["W nuc"], mean["KQ nuc"] - mean["KQ fro"]),
                note,
            ),
        ]
    )


def _correlation(left: Array, right: Array) -> float:
    return float((left * right).sum() / np.linalg.norm(left) / np.linalg.norm(right))


__all__ = ["Sheen2024implicit", "Trajectory"]
