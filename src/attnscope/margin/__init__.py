"""Max-margin problems of attention: the smallest W, in some norm, that separates the optimal tokens.

minimise ||W|| subject to (x_opt - x_il)^T W z_i >= 1 for every sample i and token l (Tarzanagh et al.,
arXiv:2308.16898; Sheen et al., arXiv:2403.08699, section 2). Four norms, one file each. Every answer is
certified without trusting its solver: the primal is scaled to feasibility, the dual into the dual norm's
unit ball, and an answer whose gap exceeds 1e-6 is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attnscope.errors import AttnscopeError

Array = npt.NDArray[np.float64]
GAP = 1e-6


class MarginError(AttnscopeError):
    """No max-margin answer: the data are not separable, not finite, or the solver was not exact enough."""


@dataclass(frozen=True)
class Constraints:
    """The constraints <A_il, W> >= 1 with A_il = (x_opt - x_il) z_i^T.

    Attributes:
        differences: x_opt - x_il, `[sample, token, d]`.
        queries: z, `[sample, d]`.
    """

    differences: Array
    queries: Array

    def __post_init__(self) -> None:
        differences, queries = np.asarray(self.differences, float), np.asarray(self.queries, float)
        object.__setattr__(self, "differences", differences)
        object.__setattr__(self, "queries", queries)
        if differences.ndim != 3 or queries.ndim != 2 or len(differences) != len(queries):
            raise MarginError(
                f"differences must be [sample, token, d] and queries [sample, d]; found {differences.shape}, "
                f"{queries.shape}"
            )
        if differences.size == 0:
            raise MarginError("there are no constraints: each sample needs a token beside the optimal one")
        if not (np.isfinite(differences).all() and np.isfinite(queries).all()):
            raise MarginError("tokens and queries must be finite; found NaN or infinity")

    def matrices(self) -> Array:
        """`[constraint, d, d]`."""
        return np.asarray(np.einsum("ild,ie->ilde", self.differences, self.queries).reshape(-1, *self._shape))

    def margins(self, weights: Array) -> Array:
        """<A_il, W> for each constraint, `[sample, token]`."""
        return np.asarray(np.einsum("ild,de,ie->il", self.differences, weights, self.queries))

    def combine(self, dual: Array) -> Array:
        """Sum of dual_il A_il, `[d, d]`."""
        weighted = np.einsum("il,ild->id", dual.reshape(self.differences.shape[:2]), self.differences)
        return np.asarray(weighted.T @ self.queries)

    def compressed(self) -> tuple[Constraints, Array, Array]:
        """The same problem on the spans of the differences and of the queries, with the two bases.

        Exact for every unitarily invariant norm: W = U W' V^T has the norm of W', and what W does
        outside the spans costs norm and meets no constraint.
        """
        left = _span(self.differences.reshape(-1, self.differences.shape[-1]))
        right = _span(self.queries)
        return Constraints(self.differences @ left, self.queries @ right), left, right

    @property
    def _shape(self) -> tuple[int, int]:
        return self.differences.shape[-1], self.queries.shape[-1]


@dataclass(frozen=True)
class MaxMargin:
    """A certified answer.

    Attributes:
        weights: W, scaled so that its smallest margin is 1.
        value: its norm.
        dual: multipliers `[sample, token]`, in the dual norm's unit ball.
        dual_value: their sum, a lower bound on the norm of every feasible W.
        gap: (value - dual_value) / value.
        infeasibility: how far below 1 the smallest margin is after scaling (rounding).
        norm: `frobenius`, `l1`, `nuclear`, `spectral`.
    """

    weights: Array
    value: float
    dual: Array
    dual_value: float
    gap: float
    infeasibility: float
    norm: str

    def rank(self, relative: float = 1e-3) -> int:
        """Singular values above `relative` times the largest."""
        values = np.linalg.svd(self.weights, compute_uv=False)
        return int((values > relative * values[0]).sum())


def matrix_norm(weights: Array, norm: str) -> float:
    """A matrix norm by name; `l1` is the sum of absolute entries."""
    if norm == "l1":
        return float(np.abs(weights).sum())
    if norm == "frobenius":
        return float(np.linalg.norm(weights))
    values = np.linalg.svd(weights, compute_uv=False)
    return float(values.sum() if norm == "nuclear" else values[0])


_DUAL_NORM = {"frobenius": "frobenius", "nuclear": "spectral", "spectral": "nuclear"}


def certify(constraints: Constraints, weights: Array, dual: Array, norm: str) -> MaxMargin:
    """Scales a solver's primal and dual to feasibility and measures the gap between them.

    Raises:
        MarginError: no positive margin, or a gap above 1e-6.
    """
    smallest = float(constraints.margins(weights).min())
    if not np.isfinite(smallest) or smallest <= 0:
        raise MarginError(
            "the data are not separable: no W puts every optimal token first (smallest margin "
            f"{smallest:.2e}); check that each sample's optimal token is not a duplicate of another"
        )
    weights = weights / smallest
    dual = np.asarray(dual, float).reshape(constraints.differences.shape[:2]).clip(min=0)
    size = matrix_norm(constraints.combine(dual), _DUAL_NORM[norm])
    dual = dual / size if size > 0 else dual
    return _answer(constraints, weights, dual, norm)


def _answer(constraints: Constraints, weights: Array, dual: Array, norm: str) -> MaxMargin:
    value, lower = matrix_norm(weights, norm), float(dual.sum())
    gap = (value - lower) / value
    if gap > GAP:
        raise MarginError(
            f"the {norm} problem was not solved exactly: relative gap {gap:.1e} above {GAP:g} "
            f"(primal {value:.9g}, dual {lower:.9g}); use fewer samples or a tighter solver"
        )
    infeasibility = max(0.0, 1 - float(constraints.margins(weights).min()))
    return MaxMargin(weights, value, dual, lower, gap, infeasibility, norm)


def _span(rows: Array) -> Array:
    """Orthonormal basis `[d, rank]` of the row space."""
    _, values, right = np.linalg.svd(rows, full_matrices=False)
    kept = values > values[0] * max(rows.shape) * np.finfo(float).eps if values[0] > 0 else values > 0
    if not kept.any():
        raise MarginError("every token difference (or every query) is zero: nothing can be separated")
    return np.asarray(right[kept].T)
