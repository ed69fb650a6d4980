"""Blocks that share their products: the heads of a projection cost no more than the projection."""

import numpy as np
import pytest
import torch

from attnscope.anatomy.blocks import Block, ParameterSlice, Role
from attnscope.curvature.combined import Joined
from attnscope.curvature.coupling import coupling, row_norms
from attnscope.curvature.hessian import Hessian
from attnscope.curvature.hutchinson import diagonal, trace
from reference.dense_curvature import DenseOperator, dense_hessian


@pytest.fixture
def heads(tiny):
    blocks = tuple(
        Block(f"L0H{head}.{letter}", role, (
            ParameterSlice("in_proj.weight", (12, 4), 0, ((4 * third + 2 * head, 4 * third + 2 * head + 2),)),
        ), layer=0, head=head)
        for third, (letter, role) in enumerate((("Q", Role.QUERY), ("K", Role.KEY), ("V", Role.VALUE)))
        for head in range(2)
    )
    matrix, index = dense_hessian(tiny.model, [tiny.batch], tiny.loss)
    dense = DenseOperator.cut(matrix, blocks, index)
    return Hessian(tiny.model, [tiny.batch], tiny.loss, blocks, dtype=torch.float64), dense


GROUPS = [("L0H0.Q", "L0H1.Q"), ("L0H0.K", "L0H1.K"), ("L0H0.V", "L0H1.V")]


def test_groups_cost_one_product_each_and_stay_unbiased(heads):
    operator, dense = heads
    trace(operator, n_probes=3, together=GROUPS)
    assert operator.n_products == 3 * 3
    runs = [trace(dense, n_probes=16, seed=seed, together=GROUPS) for seed in range(200)]
    diagonals = [diagonal(dense, n_probes=16, seed=seed, together=GROUPS) for seed in range(200)]
    for name in dense.names:
        truth = dense.block(name, name).diag()
        values = np.array([run[name].value for run in runs])
        errors = np.array([run[name].stderr for run in runs])
        assert abs(values.mean() - float(truth.sum())) <= 4 * values.std() / np.sqrt(200)
        # Eight parameters leave few, skewed terms, so the bars are a little short of 95 %.
        assert (np.abs(values - float(truth.sum())) <= 2.13 * errors).mean() >= 0.84
        found = torch.stack([run[name].values for run in diagonals])
        off = (found.mean(0) - truth).abs() / (found.std(0) / 200**0.5)
        assert float(off.max()) < 4.5


def test_real_products_agree_with_the_dense_ones(heads):
    operator, dense = heads
    one, other = trace(operator, n_probes=4, together=GROUPS), trace(dense, n_probes=4, together=GROUPS)
    for name in operator.names:
        assert one[name].value == pytest.approx(other[name].value, rel=1e-8)


def test_groups_must_not_overlap(heads):
    with pytest.raises(ValueError, match="two groups"):
        trace(heads[1], together=[("L0H0.Q", "L0H1.Q"), ("L0H1.Q",)])
    with pytest.raises(KeyError, match="no block"):
        trace(heads[1], together=[("L7.Q",)])


def test_joined_blocks_are_the_same_matrix(heads):
    operator, dense = heads
    joined = Joined(operator)
    vector = torch.randn(joined.sizes["all"], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(joined.own("all", vector), dense.matrix @ vector)
    some = Joined(operator, ("L0H1.K", "L0H0.Q"))
    where = torch.cat([torch.arange(dense.sizes["L0H0.Q"]) + dense.place[name].start for name in some.parts])
    vector = vector[: some.sizes["all"]]
    torch.testing.assert_close(some.own("all", vector), dense.matrix[where][:, where] @ vector)


def test_rows_of_heads_cost_what_projections_cost(heads):
    operator, dense = heads
    groups = {"Q": GROUPS[0], "K": GROUPS[1], "V": GROUPS[2]}
    row_norms(operator, groups, n_probes=2)
    assert operator.n_products == 2 * 3
    runs = [row_norms(dense, groups, n_probes=8, seed=seed) for seed in range(200)]
    squares = np.stack([run.norms**2 for run in runs])
    for column, group in enumerate(groups.values()):
        for row, name in enumerate(dense.names):
            truth = sum(float(dense.block(name, member).square().sum()) for member in group)
            assert squares[:, row, column].mean() == pytest.approx(
                truth, abs=4 * squares[:, row, column].std() / 200**0.5 + 1e-12
            )
    with pytest.raises(ValueError, match="at least 2"):
        row_norms(dense, groups, n_probes=1)


def test_each_pair_once_is_unbiased_too(heads):
    _, dense = heads
    squares = np.stack([coupling(dense, n_probes=4, seed=seed, once=True).norms ** 2 for seed in range(300)])
    truth = np.array([[float(dense.block(a, b).square().sum()) for b in dense.names] for a in dense.names])
    error = 4 * squares.std(0) / 300**0.5 + 1e-12
    assert (np.abs(squares.mean(0) - truth) <= error).all()
