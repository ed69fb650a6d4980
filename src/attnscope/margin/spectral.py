"""The smallest spectral norm: what a merged W is biased to under orthogonalised updates (Muon)."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from attnscope.margin import Constraints, MarginError, MaxMargin, certify
from attnscope.margin.nuclear import _module, _triangle


def spectral(constraints: Constraints) -> MaxMargin:
    """Solves min t with [[t I, W], [W^T, t I]] positive semidefinite and the separation constraints.

    Args:
        constraints: the separation constraints.

    Returns:
        W of least spectral norm, with its certificate.

    Raises:
        MarginError: not separable, the solver is missing, or the gap is above 1e-6.
    """
    solver = _module("clarabel")
    small, left, right = constraints.compressed()
    matrices = small.matrices()
    count, p, q = matrices.shape
    rows, columns = _triangle(p + q, upper=True)
    entry = {(row, column): index for index, (row, column) in enumerate(zip(rows, columns, strict=True))}
    cone = np.zeros((len(rows), 1 + p * q))
    cone[[entry[index, index] for index in range(p + q)], 0] = -1.0
    for row in range(p):
        for column in range(q):
            cone[entry[row, p + column], 1 + row * q + column] = -np.sqrt(2)
    separation = np.hstack([np.zeros((count, 1)), -matrices.reshape(count, -1)])
    system = sparse.csc_matrix(np.vstack([separation, cone]))
    bound = np.concatenate([-np.ones(count), np.zeros(len(rows))])
    objective = np.zeros(1 + p * q)
    objective[0] = 1.0
    settings = solver.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-10
    cones = [solver.NonnegativeConeT(count), solver.PSDTriangleConeT(p + q)]
    found = solver.DefaultSolver(
        sparse.csc_matrix((1 + p * q, 1 + p * q)), objective, system, bound, cones, settings
    ).solve()
    if "PrimalInfeasible" in str(found.status):
        raise MarginError("the data are not separable: the problem is infeasible")
    weights = np.array(found.x)[1:].reshape(p, q)
    return certify(constraints, left @ weights @ right.T, np.array(found.z)[:count], "spectral")
