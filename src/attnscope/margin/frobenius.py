"""The smallest Frobenius norm: what a merged W is biased to (Tarzanagh et al. 2023)."""

from __future__ import annotations

import numpy as np
from scipy.optimize import nnls

from attnscope.margin import Constraints, MarginError, MaxMargin, certify


def frobenius(constraints: Constraints) -> MaxMargin:
    """Solves the problem exactly, as least distance programming by non-negative least squares.

    With rows a_c of the constraints, minimise ||[A^T; 1^T] u - [0; 1]|| over u >= 0; the residual r gives
    W = -r_W / r_1 (Lawson and Hanson, Solving Least Squares Problems, chapter 23).

    Args:
        constraints: the separation constraints.

    Returns:
        W of least Frobenius norm, with its certificate.

    Raises:
        MarginError: the data are not separable (the residual vanishes), or the gap is above 1e-6.
    """
    small, left, right = constraints.compressed()
    matrices = small.matrices()
    rows = matrices.reshape(len(matrices), -1)
    scale = np.abs(rows).max()
    system = np.vstack([rows.T / scale, np.ones(len(rows))])
    target = np.zeros(len(system))
    target[-1] = 1.0
    solution, residual = nnls(system, target, maxiter=100 * system.shape[1])
    if residual < 1e-9:
        raise MarginError("the data are not separable: a non-negative combination of the constraints vanishes")
    weights = (rows.T @ solution).reshape(matrices.shape[1:])
    return certify(constraints, left @ weights @ right.T, solution, "frobenius")
