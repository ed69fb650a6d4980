"""Lanczos, Hutchinson and coupling against dense matrices."""

import numpy as np
import pytest
import torch

from attnscope.curvature.coupling import coupling
from attnscope.curvature.hessian import Hessian
from attnscope.curvature.hutchinson import diagonal, trace
from attnscope.curvature.lanczos import lanczos
from reference.dense_curvature import DenseOperator, dense_hessian


@pytest.fixture
def dense(moment):
    matrix, index = dense_hessian(moment.model, [moment.batch], moment.loss)
    return DenseOperator.cut((matrix + matrix.T) / 2, moment.blocks, index)


def test_lanczos_finds_both_ends_of_every_block(moment, dense):
    operator = Hessian(moment.model, [moment.batch], moment.loss, moment.blocks, dtype=torch.float64)
    found = lanczos(operator, max_steps=60, tolerance=1e-9, ends=("top", "bottom"), vectors=True)
    scale = float(dense.matrix.norm())
    for name, ritz in found.items():
        values = torch.linalg.eigvalsh(dense.block(name, name))
        assert ritz.converged
        least = 1e-9 * float(values.abs().max()) + 1e-11 * scale
        assert ritz.top == pytest.approx(float(values[-1]), rel=1e-7, abs=least), name
        assert ritz.bottom == pytest.approx(float(values[0]), rel=1e-7, abs=least), name
        for value, vector in ((ritz.top, ritz.top_vector), (ritz.bottom, ritz.bottom_vector)):
            residual = dense.own(name, vector) - value * vector
            least = 0.1 * float(values.abs().max())
            assert float(residual.norm()) <= 1e-6 * max(abs(value), least) + 1e-10 * scale


def test_residual_bounds_hold_before_convergence(dense):
    for steps in (2, 4, 7):
        for name, ritz in lanczos(dense, max_steps=steps, tolerance=0).items():
            values = torch.linalg.eigvalsh(dense.block(name, name)).numpy()
            assert ritz.steps == min(steps, dense.sizes[name]) or ritz.residuals.max() < 1e-9
            for value, bound in zip(ritz.values, ritz.residuals, strict=True):
                assert np.abs(values - value).min() <= bound + 1e-12 * np.abs(values).max()
                assert values[0] - 1e-10 <= value <= values[-1] + 1e-10


def test_the_estimated_error_is_nearer_the_truth_than_the_bound(dense):
    gained = []
    for name, ritz in lanczos(dense, max_steps=7, tolerance=0).items():
        values = torch.linalg.eigvalsh(dense.block(name, name)).numpy()
        error = np.abs(values - ritz.top).min()
        assert ritz.errors[-1] <= ritz.top_residual
        assert error <= 2 * ritz.errors[-1] + 1e-12 * np.abs(values).max()
        gained.append(ritz.errors[-1] < 0.3 * ritz.top_residual)
    assert np.mean(gained) > 0.5


def test_no_ghosts_after_full_reorthogonalisation():
    # One outlier makes plain Lanczos find it again and again.
    generator = torch.Generator().manual_seed(0)
    values = torch.cat([torch.linspace(-1, 1, 199), torch.tensor([1e4])]).double()
    basis = torch.linalg.qr(torch.randn(200, 200, dtype=torch.float64, generator=generator))[0]
    operator = DenseOperator(basis @ torch.diag(values) @ basis.T, {"a": 200})
    ritz = lanczos(operator, max_steps=80, tolerance=0)["a"]
    assert (ritz.values > 2).sum() == 1
    assert ritz.top == pytest.approx(1e4)


def test_lanczos_stops_where_the_space_ends():
    operator = DenseOperator(torch.zeros(5, 5), {"zero": 3, "tiny": 2})
    found = lanczos(operator, max_steps=10)
    assert found["zero"].top == found["zero"].bottom == 0
    assert found["zero"].steps == 1
    assert found["zero"].converged


def test_groups_bound_memory_and_change_nothing(dense):
    together = lanczos(dense, max_steps=5, tolerance=0)
    apart = lanczos(dense, max_steps=5, tolerance=0, held=100)
    assert all(np.array_equal(together[name].values, apart[name].values) for name in together)


def test_converged_blocks_step_no_more():
    operator = DenseOperator(torch.diag(torch.tensor([1.0, 1, 1, *range(1, 40)])), {"flat": 3, "rich": 39})
    seen = []
    found = lanczos(operator, max_steps=8, tolerance=1e-6, progress=lambda *counts: seen.append(counts))
    assert found["flat"].steps == 1
    assert found["rich"].steps == 8
    assert operator.n_products == 9
    assert seen[-1] == (9, 16)


def test_an_eigenvalue_that_shows_late_needs_more_steps():
    """One large eigenvalue, a flat bulk, and one small negative eigenvalue behind it."""
    bulk = 1e-4 * torch.randn(1500, generator=torch.Generator().manual_seed(0))
    values = torch.cat([torch.tensor([1.0, -0.05]), bulk])
    operator = DenseOperator(torch.diag(values.double()), {"a": len(values)})
    early = [lanczos(operator, ends=("top", "bottom"), seed=seed)["a"] for seed in range(20)]
    later = [lanczos(operator, ends=("top", "bottom"), seed=seed, at_least=8)["a"] for seed in range(20)]
    assert sum(item.bottom > -0.049 for item in early) > 0
    assert all(item.bottom == pytest.approx(-0.05, rel=0.01) for item in later)
    assert all(item.steps >= 8 for item in later)


@pytest.mark.parametrize("wrong", [{"max_steps": 0}, {"ends": ("middle",)}, {"ends": ()}])
def test_lanczos_refuses(wrong):
    with pytest.raises(ValueError, match="needs max_steps"):
        lanczos(DenseOperator(torch.eye(2), {"a": 2}), **wrong)


def test_trace_and_diagonal_are_exact_in_small_blocks(dense):
    n = max(dense.sizes.values())
    traces, diagonals = trace(dense, n_probes=n), diagonal(dense, n_probes=n)
    for name in dense.names:
        block = dense.block(name, name)
        assert traces[name].value == pytest.approx(float(block.trace()), abs=1e-12)
        assert traces[name].stderr == 0
        torch.testing.assert_close(diagonals[name].values, block.diag())
        assert float(diagonals[name].stderr.max()) == 0
    assert sum(item.value for item in traces.values()) == pytest.approx(float(dense.matrix.trace()))


def test_trace_is_unbiased_and_its_error_bars_cover(dense):
    names = [name for name in dense.names if dense.sizes[name] > 16]
    runs = [trace(dense, names, n_probes=16, seed=seed) for seed in range(200)]
    for name in names:
        truth = float(dense.block(name, name).trace())
        values = np.array([run[name].value for run in runs])
        errors = np.array([run[name].stderr for run in runs])
        assert abs(values.mean() - truth) <= 4 * values.std() / np.sqrt(200), name
        covered = (np.abs(values - truth) <= 2.13 * errors).mean()  # t quantile, 15 degrees, 95 %
        assert 0.88 <= covered <= 0.995, (name, covered)


def test_diagonal_is_unbiased_and_its_error_bars_cover(dense):
    name = "L0.V"
    runs = [diagonal(dense, [name], n_probes=16, seed=seed)[name] for seed in range(200)]
    truth = dense.block(name, name).diag()
    values = torch.stack([run.values for run in runs])
    stderr = torch.stack([run.stderr for run in runs])
    off = (values.mean(0) - truth).abs() / (values.std(0) / 200**0.5 + 1e-15)
    assert float(off.max()) < 4.5
    covered = float(((values - truth).abs() <= 2.13 * stderr).double().mean())
    assert 0.9 <= covered <= 0.99


def test_coupling_equals_the_dense_norms_within_its_error_bars(dense):
    names = dense.names
    truth = np.array([[float(dense.block(a, b).norm()) ** 2 for b in names] for a in names])
    runs = [coupling(dense, n_probes=8, seed=seed) for seed in range(120)]
    squares = np.stack([run.norms**2 for run in runs])
    off = np.abs(squares.mean(0) - truth) / (squares.std(0) / np.sqrt(120) + 1e-14 * truth.max())
    assert off.max() < 4.5
    errors = np.stack([2 * run.norms * run.norm_stderr for run in runs])
    covered = (np.abs(squares - truth) <= 2.2 * errors + 1e-14 * truth.max()).mean()
    assert 0.85 <= covered <= 0.99  # squared norms are skewed, so the bars are a little short
    run = runs[0]
    assert np.array_equal(run.norms, run.norms.T)
    assert np.diag(run.ratios) == pytest.approx(1)
    assert run.norm("L0.Q", "L0.K").value == run.norms[0, 1]


def test_many_probes_reach_the_dense_coupling(dense):
    found = coupling(dense, ("L0.Q", "L0.V", "mlp"), n_probes=3000)
    for a in found.blocks:
        for b in found.blocks:
            own = float(dense.block(a, a).norm() * dense.block(b, b).norm()) ** 0.5
            truth = float(dense.block(a, b).norm()) / own
            assert found.ratio(a, b).value == pytest.approx(truth, rel=0.1), (a, b)


def test_one_probe_is_refused():
    operator = DenseOperator(torch.eye(4), {"a": 4})
    for estimator in (trace, diagonal, coupling):
        with pytest.raises(ValueError, match="at least 2"):
            estimator(operator, n_probes=1)


def test_probes_do_not_depend_on_the_other_blocks(dense):
    alone = trace(dense, ["L0.V"], n_probes=3)["L0.V"]
    together = trace(dense, n_probes=3)["L0.V"]
    assert alone == together
