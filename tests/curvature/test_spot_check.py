"""The spot check passes what is right, and shows what double backward gets wrong in silence."""

import pytest
import torch
from torch import nn

from attnscope.curvature.hessian import Hessian
from attnscope.curvature.spot_check import asymmetry, spot_check
from reference.curvature_cases import tiny_blocks


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-7), (torch.float32, 2e-2)])
def test_right_products_pass(moment, dtype, tolerance):
    # The padding row's gradient is frozen at zero, so differences along it mean nothing.
    blocks = tuple(block for block in tiny_blocks(moment.model) if block.name != "embedding")
    operator = Hessian(moment.model, [moment.batch], moment.loss, blocks, dtype=dtype)
    vector = {"L0.Q": torch.ones(20, dtype=dtype)}
    before = operator.matvec(vector)
    found = spot_check(operator)
    assert found.trusted
    assert found.difference < tolerance
    assert found.asymmetry < 100 * torch.finfo(dtype).eps
    after = operator.matvec(vector)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_backward_that_detaches_is_seen():
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, gradient):
            return gradient * 2 * ctx.saved_tensors[0].detach()

    torch.manual_seed(0)
    model, batch = nn.Linear(3, 2).double(), torch.randn(5, 3).double()
    right = Hessian(model, [batch], lambda m, b: (m(b) ** 2).square().mean(), dtype=torch.float64)
    wrong = Hessian(model, [batch], lambda m, b: Square.apply(m(b)).square().mean(), dtype=torch.float64)
    assert spot_check(right).difference < 1e-7
    found = spot_check(wrong)
    assert found.trusted
    assert found.difference > 0.1


def test_a_step_across_a_kink_is_not_trusted():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1e-4)
    operator = Hessian(model, [torch.ones(4, 1)], lambda m, b: (m(b).relu() + m(b).square()).mean())
    assert not spot_check(operator, step=0.01).trusted


def test_asymmetry_of_a_matrix_that_is_not_symmetric():
    from reference.dense_curvature import DenseOperator

    matrix = torch.randn(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert asymmetry(DenseOperator(matrix, {"a": 5, "b": 7})) > 1e-3
    assert asymmetry(DenseOperator(matrix + matrix.T, {"a": 5, "b": 7})) < 1e-14
