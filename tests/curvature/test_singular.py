"""Top singular pairs of the blocks between two blocks, against dense singular values."""

import pytest
import torch

from attnscope.curvature.hessian import Hessian
from attnscope.curvature.singular import top_singular_pairs
from reference.dense_curvature import DenseOperator, dense_hessian

PAIRS = [("L0.Q", "L0.K"), ("L0.K", "L0.V"), ("L0.V", "L0.O"), ("norm", "mlp")]


def test_against_dense_singular_values(moment):
    operator = Hessian(moment.model, [moment.batch], moment.loss, moment.blocks, dtype=torch.float64)
    matrix, index = dense_hessian(moment.model, [moment.batch], moment.loss)
    dense = DenseOperator.cut(matrix, moment.blocks, index)
    found = top_singular_pairs(operator, PAIRS, tolerance=1e-7, max_steps=60)
    assert list(found) == PAIRS
    for (a, b), pair in found.items():
        block = dense.block(a, b)
        values = torch.linalg.svdvals(block)
        assert pair.value == pytest.approx(float(values[0]), rel=1e-8)
        assert float((block @ pair.right - pair.value * pair.left).norm()) <= 1e-6 * pair.value
        assert float((block.T @ pair.left - pair.value * pair.right).norm()) <= 1e-6 * pair.value
        assert float(pair.left.norm()) == pytest.approx(1)


def test_bounds_hold_early():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(90, 90, dtype=torch.float64, generator=generator)
    operator = DenseOperator(matrix + matrix.T, {"a": 40, "b": 50})
    values = torch.linalg.svdvals(operator.block("a", "b"))
    for steps in (1, 2, 5):
        pair = top_singular_pairs(operator, [("a", "b")], max_steps=steps, tolerance=0)["a", "b"]
        assert pair.steps == 2 * steps
        assert pair.value <= float(values[0]) + 1e-10
        assert float((values - pair.value).abs().min()) <= pair.residual + 1e-10


def test_blocks_that_do_not_touch_and_blocks_of_rank_one():
    matrix = torch.zeros(9, 9, dtype=torch.float64)
    matrix[:3, 3:6] = torch.outer(torch.arange(3.0), torch.ones(3))
    operator = DenseOperator(matrix + matrix.T, {"a": 3, "b": 3, "c": 3})
    found = top_singular_pairs(operator, [("a", "b"), ("a", "c")])
    assert found["a", "b"].value == pytest.approx((5 * 3) ** 0.5)
    assert found["a", "c"].value == 0
    with pytest.raises(ValueError, match="at least 1"):
        top_singular_pairs(operator, [("a", "b")], max_steps=0)
