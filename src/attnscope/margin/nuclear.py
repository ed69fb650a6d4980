"""The smallest nuclear norm: what separate K and Q are biased to (Sheen et al. 2024)."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from attnscope.margin import Array, Constraints, MarginError, MaxMargin, certify

SMALL = 12  # samples up to which an interior-point solver is the quicker one


def nuclear(constraints: Constraints, solver: str = "auto") -> MaxMargin:
    """Solves the dual, max 1^T lambda with ||sum lambda_c A_c||_2 <= 1 and lambda >= 0, as a semidefinite program.

    The matrix [[I, M], [M^T, I]] with M = sum lambda_c A_c is positive semidefinite exactly when ||M||_2 <= 1;
    W is its multiplier's off-diagonal block.

    Args:
        constraints: the separation constraints.
        solver: `clarabel` (interior point), `scs` (first order, for many samples), or `auto`.

    Returns:
        W of least nuclear norm, with its certificate. Its rank is read with a relative threshold: a loosely
        solved problem shows a rank that is not there.

    Raises:
        MarginError: not separable, a solver is missing, or the gap is above 1e-6.
    """
    small, left, right = constraints.compressed()
    matrices = small.matrices()
    chosen = ("clarabel" if len(small.queries) <= SMALL else "scs") if solver == "auto" else solver
    dual, weights = {"clarabel": _clarabel, "scs": _scs}[chosen](matrices)
    return certify(constraints, left @ weights @ right.T, dual, "nuclear")


def _triangle(size: int, *, upper: bool) -> tuple[Array, Array]:
    """Rows and columns of a triangle, stacked by columns, as the solver wants it."""
    pairs = [(row, column) for column in range(size) for row in (range(column + 1) if upper else range(column, size))]
    rows, columns = np.array(pairs).T
    return rows, columns


def _cone_rows(matrices: Array, *, upper: bool) -> tuple[sparse.csc_matrix, Array, tuple[Array, Array]]:
    """-lambda <= 0 and svec(-[[0, M], [M^T, 0]]) + s = svec(I), off-diagonals times sqrt(2)."""
    count, p, q = matrices.shape
    rows, columns = _triangle(p + q, upper=upper)
    whole = np.zeros((count, p + q, p + q))
    whole[:, :p, p:] = matrices
    whole[:, p:, :p] = matrices.transpose(0, 2, 1)
    factor = np.where(rows == columns, 1.0, np.sqrt(2))
    stacked = (whole[:, rows, columns] * factor).T
    constant = np.where(rows == columns, 1.0, 0.0)
    left = sparse.vstack([-sparse.eye(count), sparse.csc_matrix(stacked)]).tocsc()
    return left, np.concatenate([np.zeros(count), constant]), (rows, columns)


def _multiplier_block(multiplier: Array, triangle: tuple[Array, Array], p: int, q: int) -> Array:
    rows, columns = triangle
    whole = np.zeros((p + q, p + q))
    whole[rows, columns] = multiplier / np.where(rows == columns, 1.0, np.sqrt(2))
    whole = whole + np.triu(whole, 1).T if rows[1] < columns[1] else whole + np.tril(whole, -1).T
    # The rows say svec(I - whole(M)) >= 0, so the multiplier's off-diagonal block is W up to a factor.
    return whole[:p, p:]


def _clarabel(matrices: Array) -> tuple[Array, Array]:
    solver = _module("clarabel")
    count, p, q = matrices.shape
    left, right, triangle = _cone_rows(matrices, upper=True)
    settings = solver.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-10
    cones = [solver.NonnegativeConeT(count), solver.PSDTriangleConeT(p + q)]
    found = solver.DefaultSolver(
        sparse.csc_matrix((count, count)), -np.ones(count), left, right, cones, settings
    ).solve()
    if "Dual" in str(found.status) and "Infeasible" in str(found.status):
        raise MarginError("the data are not separable: the dual is unbounded")
    return np.array(found.x), _multiplier_block(np.array(found.z)[count:], triangle, p, q)


def _scs(matrices: Array) -> tuple[Array, Array]:
    solver = _module("scs")
    count, p, q = matrices.shape
    left, right, triangle = _cone_rows(matrices, upper=False)
    found = solver.SCS(
        {"A": left, "b": right, "c": -np.ones(count)},
        {"l": count, "s": [p + q]},
        eps_abs=1e-10,
        eps_rel=1e-10,
        max_iters=200_000,
        verbose=False,
    ).solve()
    if found["info"]["status"] == "unbounded":
        raise MarginError("the data are not separable: the dual is unbounded")
    return found["x"], _multiplier_block(found["y"][count:], triangle, p, q)


def _module(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError as error:
        raise MarginError(f"this problem needs {name}; run: pip install 'attnscope[studies]'") from error
