"""Gradient flow on `SoftmaxAttention`, in the log domain: nothing underflows at any margin.

Under equal non-optimal scores with gap D, up to a positive factor that only changes the clock,

    -dL/dW = sum_il r_il (x_opt - x_il) z_i^T,   log r_il = D (1 - sigma_opt) + log sigma_opt + log sigma_l

(Sheen et al., arXiv:2403.08699, section 2). Subtracting the largest logarithm before exponentiating keeps
every weight finite. The clocks: time (LSODA), arc length (DOP853), dual mass (Radau, diagonal form), and
normalised gradient descent, the quick default.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.integrate import solve_ivp

from attnscope.errors import CaseError

Array = npt.NDArray[np.float64]
REACHED, NOT_REACHED, NOT_FINITE = "reached", "margin not reached", "not finite"
STATIONARY = "the start has no gradient"


@dataclass
class Flow:
    """The data of a flow.

    Attributes:
        differences: x_opt - x_il, `[sample, token, d]`.
        queries: z, `[sample, d]`.
        score_gap: gamma_opt - gamma_nopt.
    """

    differences: Array
    queries: Array
    score_gap: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.differences).all() and np.isfinite(self.queries).all()):
            raise CaseError("tokens and queries must be finite; found NaN or infinity")
        self._rows = np.ascontiguousarray(self.differences.reshape(-1, self.differences.shape[-1]))
        self._queries = np.repeat(self.queries, self.differences.shape[1], axis=0)

    def rates(self, margins: Array) -> tuple[Array, float]:
        """Each constraint's weight in -dL/dW relative to the largest, and the log of the largest.

        Args:
            margins: (x_opt - x_il)^T W z_i, flat.
        """
        away = -margins.reshape(self.differences.shape[:2])
        top = np.maximum(away.max(1), 0.0)
        total = top + np.log(np.exp(-top) + np.exp(away - top[:, None]).sum(1))
        logs = away + (-self.score_gap * np.expm1(-total) - 2 * total)[:, None]
        largest = float(logs.max())
        return np.exp(logs - largest).ravel(), largest

    def descent(self, weights: Array) -> tuple[Array, float, float]:
        """Minus the gradient with respect to W up to a factor, the log of that factor, and the margin."""
        margins = ((self._rows @ weights) * self._queries).sum(1)
        shares, largest = self.rates(margins)
        return (self._rows * shares[:, None]).T @ self._queries, largest, float(margins.min())

    def margin(self, weights: Array) -> float:
        """The smallest (x_opt - x_il)^T W z_i."""
        return float(((self._rows @ weights) * self._queries).sum(1).min())


@dataclass
class Trajectory:
    """Where a flow went.

    Attributes:
        status: `reached`, `margin not reached`, `not finite`, or `the start has no gradient`.
        factors: the parameters at the end.
        margins, weights: the margins asked for that were reached, and W there.
        log_time: log of the gradient-flow time at those margins (NaN where the clock does not tell).
        drift: change of K^T K - Q^T Q relative to ||K||^2 at the end (0 for the merged form).
        n_evaluations: of the gradient.
    """

    status: str
    factors: tuple[Array, ...]
    margins: list[float] = field(default_factory=list)
    weights: list[Array] = field(default_factory=list)
    log_time: list[float] = field(default_factory=list)
    drift: float = 0.0
    n_evaluations: int = 0


def merged(factors: Sequence[Array]) -> Array:
    """W of (W,), (K, Q) `[d, d_e]` or two vectors."""
    if len(factors) == 1:
        return factors[0]
    if factors[0].ndim == 1:
        return np.diag(factors[0] * factors[1])
    return np.asarray(factors[0] @ factors[1].T)


def factor_gradients(gradient: Array, factors: Sequence[Array]) -> tuple[Array, ...]:
    """Chain rule from W to the factors: (G,), (G Q, G^T K), or the diagonals."""
    if len(factors) == 1:
        return (gradient,)
    key, query = factors
    if key.ndim == 1:
        diagonal = np.diag(gradient)
        return diagonal * query, diagonal * key
    return gradient @ query, gradient.T @ key


def invariant(factors: Sequence[Array]) -> Array:
    """K^T K - Q^T Q, which gradient flow conserves (key^2 - query^2 in the diagonal form)."""
    if len(factors) == 1:
        return np.zeros((1, 1))
    key, query = factors
    return np.asarray(key**2 - query**2 if key.ndim == 1 else key.T @ key - query.T @ query)


Direction = Callable[[tuple[Array, ...]], tuple[Array, ...]]


def joint(gradients: tuple[Array, ...]) -> tuple[Array, ...]:
    """Normalised gradient descent: one norm for all factors."""
    size = _size(gradients) or 1.0  # at a stationary point the step is zero
    return tuple(part / size for part in gradients)


def _size(parts: Sequence[Array]) -> float:
    return float(np.sqrt(sum(float((part**2).sum()) for part in parts)))


def sign(gradients: tuple[Array, ...]) -> tuple[Array, ...]:
    """Sign descent (Signum without momentum, Adam without epsilon at its limit)."""
    return tuple(np.sign(part) / np.sqrt(part.size) for part in gradients)


def muon(gradients: tuple[Array, ...]) -> tuple[Array, ...]:
    """Orthogonalised descent: the polar factor, exactly."""
    found = []
    for part in gradients:
        left, _, right = np.linalg.svd(part, full_matrices=False)
        found.append(left @ right / np.sqrt(min(part.shape)))
    return tuple(found)


def normalised_descent(
    flow: Flow,
    factors: Sequence[Array],
    margins: Sequence[float],
    *,
    lr: float = 0.01,
    most_steps: int = 100_000,
    direction: Direction = joint,
) -> Trajectory:
    """Descends with steps of fixed length until the largest margin asked for is reached."""
    now, wanted = _checked(flow, factors, margins)
    start, found = invariant(now), Trajectory(NOT_REACHED, now)
    if _stationary(flow, now):
        return Trajectory(STATIONARY, now)
    for step in range(most_steps):
        weights = merged(now)
        gradient, _, margin = flow.descent(weights)
        if not np.isfinite(gradient).all():
            found.status = NOT_FINITE
            break
        _note(found, margin, weights, wanted, np.nan)
        if not wanted:
            found.status = REACHED
            break
        now = tuple(
            part + lr * move for part, move in zip(now, direction(factor_gradients(gradient, now)), strict=True)
        )
        found.n_evaluations = step + 1
    return _ended(found, now, start)


def arc_length(
    flow: Flow, factors: Sequence[Array], margins: Sequence[float], *, longest: float = 1e5, rtol: float = 1e-8
) -> Trajectory:
    """Integrates theta' = -grad L / ||grad L|| by DOP853: the path of the flow, by its length.

    The log of the flow's time is integrated beside it, d ln t / ds = 1 / (t ||grad L||), so that no time overflows.
    """
    start, _ = _checked(flow, factors, margins)
    if _stationary(flow, start):
        return Trajectory(STATIONARY, start)

    def slope(_: float, state: Array) -> Array:
        now = _unpack(state, factors)
        gradient, log_factor, _ = flow.descent(merged(now))
        slopes = factor_gradients(gradient, now)
        size = _size(slopes)
        if not size:
            return np.zeros_like(state)
        log_size = np.log(size) + log_factor
        # e^8 at the start and less ever after; a trial step beside a stationary point may ask for anything.
        return np.append(_pack(joint(slopes)), np.exp(min(-state[-1] - log_size, 20.0)))

    gradient, log_factor, _ = flow.descent(merged(start))
    # Time cannot start at log 0; e^-8 of the first unit is nothing beside what follows.
    begin = -8.0 - log_factor - np.log(_size(factor_gradients(gradient, start)))
    return _integrate(flow, start, margins, slope, longest, "DOP853", rtol, log_time=float(begin))


def time_flow(
    flow: Flow, factors: Sequence[Array], margins: Sequence[float], *, longest: float = 1e300, rtol: float = 1e-8
) -> Trajectory:
    """Integrates gradient flow in time (loss scaled to order one) by LSODA."""
    start, _ = _checked(flow, factors, margins)
    if _stationary(flow, start):
        return Trajectory(STATIONARY, start)
    offset = flow.descent(merged(start))[1]

    def slope(_: float, state: Array) -> Array:
        now = _unpack(state, factors)
        gradient, log_factor, _ = flow.descent(merged(now))
        return _pack(factor_gradients(gradient * np.exp(log_factor - offset), now))

    return _integrate(flow, factors, margins, slope, longest, "LSODA", rtol)


def dual_mass_flow(
    flow: Flow, start_scale: float, margins: Sequence[float], *, rtol: float = 1e-9, largest: float = 25.0
) -> Trajectory:
    """The diagonal form from xi_k = sqrt(2) omega, xi_q = 0, in the clock s = sum of the dual masses, by Radau.

    beta = omega^2 sinh(B phi) with phi >= 0 the dual masses (Lemma A.1, arXiv:2403.08699); phi' = the shares
    of the constraints in the gradient. beta grows exponentially in s, so margins of 10^4 are a few units away.

    Args:
        flow: the data.
        start_scale: omega.
        margins: where W is wanted.
        rtol: relative tolerance.
        largest: of ||B phi||_inf before giving up; margins that need more are not tried, for they only cost steps.
    """
    if not (np.isfinite(start_scale) and start_scale != 0):
        raise CaseError(f"start_scale must be a number other than 0, found {start_scale!r}: no factor leaves zero")
    wanted = _checked_margins(margins)
    rows = (flow.differences * flow.queries[:, None]).reshape(-1, flow.differences.shape[-1])

    def beta_of(phi: Array) -> Array:
        return np.asarray(start_scale**2 * np.sinh(rows.T @ phi))

    def shares(beta: Array) -> tuple[Array, Array, Array]:
        scores = (rows @ beta).reshape(flow.differences.shape[:2])
        logits = np.concatenate([np.zeros((len(scores), 1)), -scores], axis=1)
        top = logits.max(1, keepdims=True)
        total = top[:, 0] + np.log(np.exp(logits - top).sum(1))
        others = np.exp(-scores - total[:, None])
        rates = (flow.score_gap * others.sum(1) - total)[:, None] - scores - total[:, None]
        weight = np.exp(rates - rates.max())
        return (weight / weight.sum()).ravel(), others, np.exp(-total)

    def slope(_: float, phi: Array) -> Array:
        return shares(beta_of(phi))[0]

    def jacobian(_: float, phi: Array) -> Array:
        beta = beta_of(phi)
        share, others, optimal = shares(beta)
        # d log rate_l / d score_m = -gap others_m optimal + 2 others_m - delta_lm, within a sample
        count, tokens = others.shape
        inner = np.zeros((share.size, share.size))
        for i in range(count):
            block = slice(i * tokens, (i + 1) * tokens)
            inner[block, block] = (2 - flow.score_gap * optimal[i]) * others[i][None, :] - np.eye(tokens)
        moved = inner @ (rows * (start_scale**2 * np.cosh(rows.T @ phi))[None, :]) @ rows.T
        return np.asarray(share[:, None] * (moved - share @ moved))

    # No |beta| exceeds omega^2 sinh(largest), and so no margin its sum over the least constraint.
    within = float(start_scale**2 * np.sinh(largest) * np.abs(rows).sum(1).min())
    tried = [bound for bound in wanted if bound <= within]
    if not tried:
        return Trajectory(NOT_REACHED, ())
    events = [_margin_event(rows, beta_of, bound) for bound in tried]
    events[-1].terminal = True  # type: ignore[attr-defined]
    events.append(_overflow_event(rows, largest))
    span = (0.0, largest / max(np.abs(rows).max(), 1e-12) * len(rows))
    found = solve_ivp(slope, span, np.zeros(len(rows)), "Radau", jac=jacobian, rtol=rtol, atol=1e-12, events=events)
    out = Trajectory(NOT_REACHED, (), n_evaluations=int(found.nfev))
    for bound, states in zip(tried, found.y_events[:-1], strict=True):
        if len(states):
            out.margins.append(bound)
            out.weights.append(np.diag(beta_of(states[0])))
            out.log_time.append(float("nan"))
    out.status = REACHED if len(out.margins) == len(wanted) else NOT_REACHED
    last = beta_of(found.y[:, -1])
    # xi_k, xi_q from beta and the conserved xi_k^2 - xi_q^2 = 2 omega^2
    key = np.sqrt(start_scale**2 + np.sqrt(start_scale**4 + last**2))
    out.factors = (key, last / key, found.y[:, -1])
    return out


def _checked(flow: Flow, factors: Sequence[Array], margins: Sequence[float]) -> tuple[tuple[Array, ...], list[float]]:
    """Factors as floats, and the margins in order.

    Raises:
        CaseError: no such flow: a form that is none, sizes that do not fit, factors without columns, NaN.
    """
    parts = tuple(np.array(part, dtype=float) for part in factors)
    d = flow.differences.shape[-1]
    shapes = [part.shape for part in parts]
    fits = {
        1: shapes == [(d, flow.queries.shape[-1])],
        2: len(shapes) == 2 and (shapes == [(d,), (d,)] or all(len(s) == 2 and s[0] == d for s in shapes)),
    }
    if not fits.get(len(parts), False) or len({s[-1] for s in shapes}) != 1:
        raise CaseError(f"factors must be (W,) [{d}, {d}], (K, Q) [{d}, d_e], or two vectors [{d}]; found {shapes}")
    if shapes[0][-1] < 1:
        raise CaseError("d_e must be at least 1: factors without columns represent only W = 0")
    if not all(np.isfinite(part).all() for part in parts):
        raise CaseError("the start must be finite; found NaN or infinity in the factors")
    return parts, _checked_margins(margins)


def _checked_margins(margins: Sequence[float]) -> list[float]:
    if not len(margins) or not all(np.isfinite(margin) and margin > 0 for margin in margins):
        raise CaseError(f"margins must be positive numbers, one at least; found {list(margins)}")
    return sorted(margins)


def _stationary(flow: Flow, factors: Sequence[Array]) -> bool:
    """Whether nothing moves: both factors are zero, say."""
    return not _size(factor_gradients(flow.descent(merged(factors))[0], factors))


def _margin_event(rows: Array, beta_of: Callable[[Array], Array], bound: float) -> Callable[[float, Array], float]:
    def event(_: float, phi: Array) -> float:
        return float((rows @ beta_of(phi)).min() / bound - 1)

    return event


def _overflow_event(rows: Array, largest: float) -> Callable[[float, Array], float]:
    def event(_: float, phi: Array) -> float:
        return float(largest - np.abs(rows.T @ phi).max())

    event.terminal = True  # type: ignore[attr-defined]
    return event


def _integrate(
    flow: Flow,
    factors: Sequence[Array],
    margins: Sequence[float],
    slope: Callable[[float, Array], Array],
    longest: float,
    method: str,
    rtol: float,
    *,
    log_time: float | None = None,
) -> Trajectory:
    """Up to the largest margin; `log_time` starts a last component of the state, else the clock is time itself."""
    start = tuple(np.asarray(part, float) for part in factors)
    wanted = sorted(margins)
    events = []
    for bound in wanted:

        def event(_: float, state: Array, bound: float = bound) -> float:
            return flow.margin(merged(_unpack(state, factors))) / bound - 1

        events.append(event)
    events[-1].terminal = True  # type: ignore[attr-defined]
    begin = _pack(start) if log_time is None else np.append(_pack(start), log_time)
    solved = solve_ivp(slope, (0.0, longest), begin, method, rtol=rtol, atol=1e-12, events=events)
    found = Trajectory(NOT_REACHED, start, n_evaluations=int(solved.nfev))
    for bound, states, times in zip(wanted, solved.y_events, solved.t_events, strict=True):
        if len(states):
            found.margins.append(bound)
            found.weights.append(merged(_unpack(states[0], factors)))
            found.log_time.append(float(np.log(times[0]) if log_time is None else states[0][-1]))
    if len(found.margins) == len(wanted):
        found.status = REACHED
    elif not np.isfinite(solved.y[:, -1]).all():
        found.status = NOT_FINITE
    return _ended(found, _unpack(solved.y[:, -1], factors), invariant(start))


def _note(found: Trajectory, margin: float, weights: Array, wanted: list[float], log_time: float) -> None:
    while wanted and margin >= wanted[0]:
        found.margins.append(wanted.pop(0))
        found.weights.append(weights)
        found.log_time.append(log_time)


def _ended(found: Trajectory, now: tuple[Array, ...], start: Array) -> Trajectory:
    found.factors = now
    if len(now) > 1:
        found.drift = float(np.linalg.norm(invariant(now) - start) / max(float((now[0] ** 2).sum()), 1e-300))
    return found


def _pack(factors: Sequence[Array]) -> Array:
    return np.concatenate([part.ravel() for part in factors])


def _unpack(state: Array, like: Sequence[Array]) -> tuple[Array, ...]:
    parts, at = [], 0
    for part in like:
        parts.append(state[at : at + part.size].reshape(part.shape))
        at += part.size
    return tuple(parts)
