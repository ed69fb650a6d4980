"""The deflated coupling: unbiased, exact where it can be, plain where deflation does not pay."""

import numpy as np
import pytest
import torch

from attnscope.curvature.coupling import both_sides, coupling
from attnscope.curvature.deflation import adaptive_coupling, choose_split
from attnscope.curvature.estimate import Sums
from attnscope.curvature.hessian import Hessian
from attnscope.curvature.ranges import Range
from reference.dense_curvature import DenseOperator, dense_hessian


@pytest.fixture
def dense(moment):
    matrix, index = dense_hessian(moment.model, [moment.batch], moment.loss)
    return DenseOperator.cut((matrix + matrix.T) / 2, moment.blocks, index)


def squares(dense):
    return np.array([[float(dense.block(a, b).square().sum()) for b in dense.names] for a in dense.names])


def low_rank(rank, size=40, blocks=6, noise=0.0, seed=0):
    """Every pair of blocks shares a few directions, and some noise."""
    generator = torch.Generator().manual_seed(seed)
    n = size * blocks
    factors = torch.randn(n, rank, generator=generator, dtype=torch.float64)
    values = torch.diag(torch.linspace(1, -0.5, rank, dtype=torch.float64)) if rank > 1 else torch.eye(1).double()
    rough = torch.randn(n, n, generator=generator, dtype=torch.float64)
    return DenseOperator(
        factors @ values @ factors.T + noise * (rough + rough.T), {f"b{i}": size for i in range(blocks)}
    )


def test_unbiased_with_honest_error_bars(dense):
    """On the norms of all pairs and on the traces, whatever the pilot decides."""
    truth = squares(dense)
    runs = [adaptive_coupling(dense, n_probes=3, seed=seed) for seed in range(150)]
    found = np.stack([run.norms**2 for run in runs])
    scale = 1e-12 * truth.max()
    off = np.abs(found.mean(0) - truth) / (found.std(0) / np.sqrt(len(runs)) + scale)
    assert off.max() < 4.5
    errors = np.stack([2 * run.norms * run.norm_stderr for run in runs])
    covered = (np.abs(found - truth) <= 2 * errors + scale).mean()
    assert 0.8 < covered < 0.99, covered  # tiny blocks are the worst case: few, skewed terms
    for name in dense.names:
        values = np.array([run.traces[name].value for run in runs])
        expected = float(dense.block(name, name).trace())
        assert abs(values.mean() - expected) <= 4.5 * values.std() / np.sqrt(len(runs)) + scale, name


def test_more_exact_than_plain_probes_at_the_same_price():
    operator = low_rank(rank=2, noise=0.01)
    truth = np.sqrt(squares(operator))

    def price_and_error(estimator, **options):
        operator.n_products = 0
        runs = [estimator(operator, seed=seed, **options) for seed in range(8)]
        return operator.n_products, np.median([np.abs(run.norms - truth) / truth for run in runs])

    price, error = price_and_error(adaptive_coupling, n_probes=4)
    plain_price, plain_error = price_and_error(coupling, n_probes=6)
    assert price <= plain_price
    assert error < plain_error / 20


@pytest.mark.parametrize("rank", [1, 2])
def test_exact_where_the_directions_are_all_there_is(rank):
    operator = low_rank(rank)
    found = adaptive_coupling(operator, n_probes=rank + 2, n_pilots=6)
    assert found.norms == pytest.approx(np.sqrt(squares(operator)), rel=1e-5)
    assert found.norm_stderr.max() < 1e-5 * found.norms.max()
    for name in operator.names:
        assert np.isfinite(found.traces[name].stderr)


def test_plain_where_nothing_decays():
    operator = low_rank(rank=1, size=60, noise=10.0)
    ranges = {name: Range() for name in operator.names}
    for name in operator.names:
        for other, seen in operator.matvec({name: torch.ones(60, dtype=torch.float64)}).items():
            ranges[other].add(seen)
    split = choose_split(list(ranges.values()), 4)
    assert (split.exact, split.fresh) == (0, 4)
    operator.n_products = 0
    adaptive_coupling(operator, n_probes=4, n_pilots=6)
    assert operator.n_products == 6 + 4 * 6


def test_the_predicted_share_is_that_of_a_vector_left_out():
    generator = torch.Generator().manual_seed(0)
    strong = torch.linalg.qr(torch.randn(50, 2, generator=generator))[0]
    seen = Range()
    columns = []
    for _ in range(9):
        vector = strong @ torch.randn(2, generator=generator) + 0.03 * torch.randn(50, generator=generator)
        columns.append(vector / vector.norm())
        seen.add(3.0 * vector)
    for k in (1, 2, 4):
        shares = []
        for left_out in range(9):
            rest = torch.stack([c for i, c in enumerate(columns) if i != left_out], 1)
            basis = torch.linalg.svd(rest, full_matrices=False)[0][:, :k]
            shares.append(float((basis.T @ columns[left_out]).square().sum()))
        assert seen.predicted(k) == pytest.approx(np.mean(shares), abs=0.01)
    basis = seen.basis(2, torch.zeros(50, dtype=torch.float64))
    torch.testing.assert_close(basis @ basis.T, torch.eye(2, dtype=torch.float64))
    assert float((basis @ strong.double()).square().sum()) > 1.9


def test_ranges_of_nothing():
    seen = Range()
    seen.add(torch.zeros(5))
    assert seen.basis(2, torch.zeros(5)).shape == (0, 5)
    assert seen.predicted(1) == 0
    seen.add(torch.ones(5))
    assert seen.predicted(1) == 0
    assert seen.basis(4, torch.zeros(5)).shape == (1, 5)


def test_zero_blocks_stay_zero():
    matrix = torch.zeros(30, 30, dtype=torch.float64)
    matrix[:10, :10] = torch.eye(10)
    found = adaptive_coupling(DenseOperator(matrix, {"a": 10, "flat": 20}), n_probes=3)
    assert found.norms[1].max() == found.norms[:, 1].max() == 0
    assert found.norms[0, 0] == pytest.approx(np.sqrt(10))
    assert np.isnan(found.ratios[0, 1])


def test_with_real_products(tiny):
    operator = Hessian(tiny.model, [tiny.batch], tiny.loss, tiny.blocks)
    matrix, index = dense_hessian(tiny.model, [tiny.batch], tiny.loss)
    truth = np.sqrt(squares(DenseOperator.cut(matrix, tiny.blocks, index)))
    seen = []
    found = adaptive_coupling(operator, n_probes=8, seed=2, progress=lambda *counts: seen.append(counts))
    assert np.median(np.abs(found.norms - truth) / truth) < 0.03
    assert seen[-1][0] == seen[-1][1] == operator.n_products


def test_moderated_errors_take_over_from_two_samples():
    """With equal true spread everywhere, the moderated error varies much less than the raw one."""
    generator = np.random.default_rng(0)
    names = tuple(f"b{i}" for i in range(8))
    samples = {(a, b): Sums() for a in names for b in names}
    for sums in samples.values():
        for _ in range(2):
            sums.add(1 + 0.1 * generator.standard_normal())
    mean, stderr = both_sides(names, samples)
    off = ~np.eye(8, dtype=bool)
    assert mean[off] == pytest.approx(1, abs=0.3)
    assert stderr[off] == pytest.approx(0.05, rel=0.6)
    raw = both_sides(names, samples, prior=0.0)[1]
    assert stderr[off].std() < raw[off].std() / 1.5


def test_sums_merge_as_if_added_together():
    one, other, all_ = Sums(), Sums(), Sums()
    for number, value in enumerate([3.0, 1.0, 4.0, 1.5, 9.0]):
        (one if number < 2 else other).add(value)
        all_.add(value)
    merged = one.merged(other)
    assert (merged.n, merged.mean) == (5, pytest.approx(all_.mean))
    assert merged.squares == pytest.approx(all_.squares)
    assert Sums().merged(one) == one


def test_too_few_probes():
    with pytest.raises(ValueError, match="at least 2"):
        adaptive_coupling(low_rank(1), n_probes=1)
