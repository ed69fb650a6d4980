"""Hutch++, XTrace and XDiag against dense matrices and against their papers' own formulas, done naively."""

import numpy as np
import pytest
import torch

from attnscope.curvature.epperly2024xtrace import xdiag, xtrace
from attnscope.curvature.hutchinson import diagonal, trace
from attnscope.curvature.meyer2020hutchpp import hutchpp
from attnscope.curvature.operator import Probes
from reference.dense_curvature import DenseOperator, dense_hessian


@pytest.fixture
def dense(moment):
    matrix, index = dense_hessian(moment.model, [moment.batch], moment.loss)
    return DenseOperator.cut((matrix + matrix.T) / 2, moment.blocks, index)


def decaying(n=120, seed=0):
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))[0]
    values = 0.6 ** torch.arange(n, dtype=torch.float64) * torch.where(torch.arange(n) % 3 == 2, -1.0, 1.0)
    return DenseOperator(basis @ torch.diag(values) @ basis.T, {"a": n})


@pytest.mark.parametrize("estimator", [hutchpp, xtrace])
def test_small_blocks_are_exact(dense, estimator):
    n = max(dense.sizes.values())
    for name, found in estimator(dense, n_products=n).items():
        assert found.value == pytest.approx(float(dense.block(name, name).trace()), abs=1e-12)
        assert found.stderr == 0


@pytest.mark.parametrize("estimator", [hutchpp, xtrace])
def test_unbiased_and_covered(dense, estimator):
    names = [name for name in dense.names if dense.sizes[name] > 16]
    runs = [estimator(dense, names, n_products=16, seed=seed) for seed in range(200)]
    for name in names:
        truth = float(dense.block(name, name).trace())
        values = np.array([run[name].value for run in runs])
        errors = np.array([run[name].stderr for run in runs])
        noise = 1e-9 * float(dense.block(name, name).norm())
        assert abs(values.mean() - truth) <= 4 * values.std() / np.sqrt(200) + noise, name
        assert (np.abs(values - truth) <= 2.5 * errors + noise).mean() >= 0.8, name


@pytest.mark.parametrize("estimator", [hutchpp, xtrace])
def test_far_better_than_plain_probes_on_a_decaying_spectrum(estimator):
    operator = decaying()
    truth = float(operator.matrix.trace())
    error = np.std([estimator(operator, n_products=24, seed=seed)["a"].value - truth for seed in range(30)])
    plain = np.std([trace(operator, n_probes=24, seed=seed)["a"].value - truth for seed in range(30)])
    assert error < plain / 15


def naive_leave_one_out(A, W):
    """The definition: a new range without probe i for every i."""
    traces, diagonals = [], []
    for i in range(W.shape[1]):
        rest = [j for j in range(W.shape[1]) if j != i]
        Q = torch.linalg.qr(A @ W[:, rest])[0]
        P = Q @ Q.T
        w = W[:, i] - P @ W[:, i]
        traces.append(float((Q.T @ A @ Q).trace() + w @ A @ w))
        diagonals.append((P @ A).diag() + W[:, i] * (A @ W[:, i] - P @ A @ W[:, i]))
    return np.array(traces), torch.stack(diagonals)


def test_the_fast_formulas_are_the_definition():
    operator = decaying(40)
    traces, diagonals = naive_leave_one_out(operator.matrix, Probes(operator, 3).signs("a", 0, 6))
    found = xtrace(operator, n_products=12, seed=3)["a"]
    assert found.value == pytest.approx(traces.mean(), rel=1e-9)
    assert found.stderr == pytest.approx(traces.std(ddof=1) / np.sqrt(6), rel=1e-7)
    diag = xdiag(operator, n_products=12, seed=3)["a"]
    torch.testing.assert_close(diag.values, diagonals.mean(0))
    torch.testing.assert_close(diag.stderr, diagonals.std(0) / 6**0.5)


def test_xdiag_is_unbiased_and_beats_plain_probes():
    operator = decaying(60)
    truth = operator.matrix.diag()
    runs = torch.stack([xdiag(operator, n_products=16, seed=seed)["a"].values for seed in range(200)])
    off = (runs.mean(0) - truth).abs() / (runs.std(0) / 200**0.5)
    assert float(off.max()) < 4.5
    plain = torch.stack([diagonal(operator, n_probes=16, seed=seed)["a"].values for seed in range(50)])
    assert (runs - truth).norm() / 200**0.5 < 0.5 * (plain - truth).norm() / 50**0.5
    small = xdiag(operator, n_products=60)["a"]
    torch.testing.assert_close(small.values, truth)
    assert small.n == 0


def test_a_zero_block_and_a_block_of_low_rank():
    matrix = torch.zeros(60, 60, dtype=torch.float64)
    vector = torch.randn(30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix[:30, :30] = torch.outer(vector, vector)
    operator = DenseOperator(matrix, {"one": 30, "zero": 30})
    for estimator in (hutchpp, xtrace):
        found = estimator(operator, n_products=12)
        assert found["one"].value == pytest.approx(float(vector @ vector), rel=1e-6)
        assert found["zero"].value == pytest.approx(0, abs=1e-12)
    assert float(xdiag(operator)["zero"].values.abs().max()) < 1e-12
    torch.testing.assert_close(xdiag(operator)["one"].values, vector**2, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("estimator", [hutchpp, xtrace, xdiag])
def test_too_few_products(estimator):
    with pytest.raises(ValueError, match="at least 4"):
        estimator(decaying(20), n_products=3)
