"""The smallest l1 norm of a diagonal W: what diagonal (K, Q) are biased to (Sheen et al. 2024, theorem 4.1)."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linprog

from attnscope.margin import Array, Constraints, MarginError, MaxMargin, _answer


def diagonal_rows(constraints: Constraints) -> Array:
    """B^T: z_i * (x_opt - x_il) for each constraint, `[constraint, d]`."""
    product = constraints.differences * constraints.queries[:, None]
    return np.asarray(product.reshape(-1, product.shape[-1]))


def diagonal(constraints: Constraints) -> MaxMargin:
    """Solves min ||beta||_1 subject to B^T beta >= 1 by HiGHS.

    Args:
        constraints: the separation constraints; only the diagonal of W is free.

    Returns:
        diag(beta), with its certificate: |B lambda| <= 1 makes the sum of lambda a lower bound.

    Raises:
        MarginError: no diagonal W separates the data, or the gap is above 1e-6.
    """
    rows = diagonal_rows(constraints)
    found = linprog(
        np.ones(2 * rows.shape[1]), A_ub=-np.hstack([rows, -rows]), b_ub=-np.ones(len(rows)), method="highs"
    )
    if found.status == 2:
        raise MarginError("no diagonal W separates the data; the diagonal problem is infeasible")
    if found.status != 0:
        raise MarginError(f"the linear program was not solved: {found.message}")
    beta = found.x[: rows.shape[1]] - found.x[rows.shape[1] :]
    beta = beta / (rows @ beta).min()
    dual = (-found.ineqlin.marginals).clip(min=0)
    dual = dual / max(np.abs(rows.T @ dual).max(), np.finfo(float).tiny)
    return _answer(constraints, np.diag(beta), dual.reshape(constraints.differences.shape[:2]), "l1")
