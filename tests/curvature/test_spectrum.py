"""Frobenius norm and stochastic Lanczos quadrature against dense spectra."""

import numpy as np
import pytest
import torch

from attnscope.curvature.frobenius import frobenius_norm
from attnscope.curvature.operator import Probes
from attnscope.curvature.ubaru2017slq import slq
from reference.dense_curvature import DenseOperator, dense_hessian


@pytest.fixture
def dense(moment):
    matrix, index = dense_hessian(moment.model, [moment.batch], moment.loss)
    return DenseOperator.cut((matrix + matrix.T) / 2, moment.blocks, index)


def eigenvalues(dense, name):
    return torch.linalg.eigvalsh(dense.block(name, name)).numpy()


def coverage(runs, truth, quantile):
    values = np.array([run.value for run in runs])
    errors = np.array([run.stderr for run in runs])
    off = abs(values.mean() - truth) / (values.std() / np.sqrt(len(runs)))
    return off, (np.abs(values - truth) <= quantile * errors).mean()


def test_small_blocks_are_exact(dense):
    for name, spectrum in slq(dense, n_probes=4, n_steps=20).items():
        values = eigenvalues(dense, name)
        assert spectrum.exact
        scale = np.abs(values).max()
        assert spectrum.nodes[0] == pytest.approx(values, abs=1e-10 * scale)
        assert spectrum.trace().value == pytest.approx(values.sum(), abs=1e-9 * scale)
        assert spectrum.frobenius_norm().value == pytest.approx(np.sqrt((values**2).sum()))
        assert spectrum.negative_share().value == pytest.approx(-values[values < 0].sum() / np.abs(values).sum())
        expected = (values**2).sum() ** 2 / (values**4).sum()
        assert spectrum.effective_rank().value == pytest.approx(expected)
        assert spectrum.trace().stderr == spectrum.negative_share().stderr == 0
    assert dense.n_products == sum(dense.sizes.values())
    exact = frobenius_norm(dense, n_probes=80)
    for name in dense.names:
        assert exact[name].value == pytest.approx(float(dense.block(name, name).norm()))
        assert exact[name].stderr == 0


def test_few_steps_integrate_powers_exactly(dense):
    """Three steps are exact for polynomials up to the fifth degree, whatever the spectrum."""
    name = "embedding"
    spectrum = slq(dense, [name], n_probes=2, n_steps=3)[name]
    block = dense.block(name, name)
    for number in range(2):
        probe = vector = Probes(dense).rademacher(name, number)
        for power in range(1, 6):
            vector = block @ vector
            found = dense.sizes[name] * float(spectrum.weights[number] @ spectrum.nodes[number] ** power)
            assert found == pytest.approx(float(probe @ vector), rel=1e-8, abs=1e-9 * float(block.norm()) ** power)


def test_error_bars_cover(dense):
    """Enough steps leave no quadrature error, so that what remains is the probes' noise."""
    name, n_probes = "mlp", 8
    values = eigenvalues(dense, name)
    wide = DenseOperator(torch.block_diag(*[dense.block(name, name)] * 8), {"a": 8 * dense.sizes[name]})
    values = np.tile(values, 8)
    runs = [slq(wide, n_probes=n_probes, n_steps=45, seed=seed)["a"] for seed in range(120)]
    assert not runs[0].exact
    for estimate, truth in (
        (lambda run: run.trace(), values.sum()),
        (lambda run: run.negative_share(), -values[values < 0].sum() / np.abs(values).sum()),
        (lambda run: run.effective_rank(), (values**2).sum() ** 2 / (values**4).sum()),
        (lambda run: run.sum_of(np.square), (values**2).sum()),
    ):
        _, covered = coverage([estimate(run) for run in runs], truth, 2.36)  # t quantile, 7 degrees, 95 %
        assert 0.85 <= covered <= 1.0, covered
    off, _ = coverage([run.trace() for run in runs], values.sum(), 2.36)
    assert off < 4


def test_frobenius_norm_is_unbiased_and_covered(dense):
    runs = [frobenius_norm(dense, ["L0.V"], n_probes=12, seed=seed)["L0.V"] for seed in range(200)]
    truth = float(dense.block("L0.V", "L0.V").square().sum())
    squares = np.array([run.value**2 for run in runs])
    assert abs(squares.mean() - truth) <= 4 * squares.std() / np.sqrt(200)
    errors = np.array([2 * run.value * run.stderr for run in runs])
    assert 0.85 <= (np.abs(squares - truth) <= 2.2 * errors).mean() <= 1.0


def test_density_integrates_to_one_and_is_where_the_eigenvalues_are(dense):
    values = eigenvalues(dense, "embedding")
    width = 0.02 * np.abs(values).max()
    grid = np.linspace(values.min() - 6 * width, values.max() + 6 * width, 4001)
    truth = np.exp(-0.5 * ((grid[:, None] - values) / width) ** 2).mean(1) / (width * np.sqrt(2 * np.pi))
    exact, error = slq(dense, ["embedding"], n_probes=4, n_steps=20)["embedding"].density(grid, width)
    assert exact == pytest.approx(truth, abs=1e-6 * truth.max())
    assert error.max() == 0
    wide = DenseOperator(torch.block_diag(*[dense.block("embedding", "embedding")] * 6), {"a": 6 * len(values)})
    spectrum = slq(wide, n_probes=8, n_steps=16)["a"]
    curve, error = spectrum.density(grid, width)
    assert np.trapezoid(curve, grid) == pytest.approx(1, abs=1e-6)
    assert np.abs(curve - truth).mean() < 3 * error.mean() + 0.02 * truth.max()


def test_a_flat_block_has_no_ratios():
    spectrum = slq(DenseOperator(torch.zeros(300, 300), {"a": 300}), n_probes=2, n_steps=3)["a"]
    assert spectrum.trace().value == 0
    assert np.isnan(spectrum.negative_share().value)
    assert np.isnan(spectrum.effective_rank().value)


@pytest.mark.parametrize("wrong", [{"n_probes": 1}, {"n_steps": 1}])
def test_too_few(wrong):
    with pytest.raises(ValueError, match="at least 2 probes and 2 steps"):
        slq(DenseOperator(torch.eye(3), {"a": 3}), **wrong)
