"""Where gradients vanish: saddles, flat blocks, data that are gone before they are used."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from attnscope import Case
from attnscope.curvature.coupling import coupling
from attnscope.curvature.deflation import adaptive_coupling
from attnscope.curvature.hessian import Hessian
from attnscope.curvature.hutchinson import trace
from attnscope.curvature.lanczos import BOTTOM, TOP, lanczos
from attnscope.curvature.survey import Survey
from attnscope.curvature.ubaru2017slq import slq
from attnscope.portrait.portrait import Request, portray
from reference.curvature_cases import TinyAttention, tiny_batch, tiny_blocks, tiny_loss
from reference.dense_curvature import DenseOperator, dense_hessian


@pytest.fixture
def saddle():
    """Value and output weights of zero: the gradient of both is zero, yet they bend together."""
    torch.manual_seed(0)
    model = TinyAttention()
    with torch.no_grad():
        model.in_proj.weight[8:] = 0
        model.in_proj.bias[8:] = 0
        model.out_proj.weight.zero_()
    return model


def test_at_a_saddle_products_are_right_and_only_the_pair_bends(saddle):
    blocks = tiny_blocks(saddle)
    operator = Hessian(saddle, [tiny_batch()], tiny_loss, blocks, dtype=torch.float64)
    assert float(operator.gradient()["L0.V"].norm()) == 0
    matrix, index = dense_hessian(saddle, [tiny_batch()], tiny_loss)
    dense = DenseOperator.cut(matrix, blocks, index)
    for name in operator.names:
        vector = torch.ones(operator.sizes[name], dtype=torch.float64)
        for other, product in operator.matvec({name: vector}).items():
            torch.testing.assert_close(product, dense.matvec({name: vector})[other], rtol=1e-9, atol=1e-12)
    found = coupling(operator, n_probes=40)
    assert found.norm("L0.V", "L0.V").value == 0
    assert found.norm("L0.V", "L0.O").value == pytest.approx(float(dense.block("L0.V", "L0.O").norm()), rel=0.2)
    assert math.isnan(found.ratio("L0.V", "L0.O").value)


def test_flat_blocks_have_zeros_and_no_ratios(saddle):
    operator = Hessian(saddle, [tiny_batch()], tiny_loss, tiny_blocks(saddle), dtype=torch.float64)
    ritz = lanczos(operator, ("L0.Q", "L0.K"), ends=(TOP, BOTTOM))
    # Queries and keys decide where zeros are looked up.
    assert all(item.top == item.bottom == 0 and item.converged for item in ritz.values())
    assert trace(operator, ("L0.Q",))["L0.Q"].value == 0
    shape = slq(operator, ("L0.Q",), n_probes=2, n_steps=4)["L0.Q"]
    assert math.isnan(shape.negative_share().value)
    assert math.isnan(shape.effective_rank().value)
    for found in (adaptive_coupling(operator, n_probes=3), Survey(operator).run(max_products=40)):
        assert found.norm("L0.Q", "L0.K").value == 0
        assert math.isnan(found.ratio("L0.Q", "L0.K").value)


def test_a_loss_that_is_flat_everywhere(tiny):
    model = copy.deepcopy(tiny.model)
    for parameter in (model.classifier.weight, model.classifier.bias):
        parameter.data.zero_()
    tokens, targets = tiny_batch()
    # The same loss times zero: a graph, but nothing in it.
    operator = Hessian(model, [(tokens, targets)], lambda m, b: 0.0 * tiny_loss(m, b), tiny_blocks(model))
    assert all(float(vector.norm()) == 0 for vector in operator.gradient().values())
    found = adaptive_coupling(operator)
    assert (found.norms == 0).all()
    assert np.isnan(found.ratios).all()
    assert Survey(operator).run(precision=0.1).norms.max() == 0


def test_a_portrait_of_a_saddle(saddle):
    found = portray(Case(saddle, [tiny_batch()]), Request(budget=1e5, double=True))
    names = found.readings["coupling"].labels("block")
    ratios = found.readings["coupling"].values
    assert np.isnan(ratios[names.index("L0.V"), names.index("L0.O")])
    assert found.readings["top_eigenvalue"].values[names.index("L0.V")] == pytest.approx(0, abs=1e-12)
    assert found.to_dict()["readings"]


def test_relu_units_that_are_off():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].bias.fill_(-100.0)
    batch = torch.randn(5, 3), torch.tensor([0, 1, 0, 1, 0])
    operator = Hessian(model, [batch], lambda m, b: nn.functional.cross_entropy(m(b[0]), b[1]))
    assert lanczos(operator, ("0.weight",))["0.weight"].top == 0
    assert lanczos(operator, ("2.bias",))["2.bias"].top > 0
