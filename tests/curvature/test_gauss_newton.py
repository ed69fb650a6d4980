"""Gauss-Newton, empirical Fisher and combined operators against explicit matrices."""

import pytest
import torch
from torch import nn

from attnscope.curvature.combined import Difference, Rescaled, Shifted
from attnscope.curvature.gauss_newton import EmpiricalFisher, GaussNewton
from attnscope.curvature.hessian import Hessian
from attnscope.errors import CaseError
from reference.dense_curvature import DenseOperator, dense_hessian
from reference.dense_gauss_newton import dense_empirical_fisher, dense_gauss_newton


def logits(model, batch):
    return model(batch[0])


def cross_entropy(outputs, batch):
    return nn.functional.cross_entropy(outputs, batch[1])


def each_loss(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def vectors(operator, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(size, generator=generator, dtype=torch.float64).to(operator.dtype)
        for name, size in operator.sizes.items()
    }


def assert_same_columns(operator, dense, tolerance=1e-11):
    for name, vector in vectors(operator).items():
        found, expected = operator.matvec({name: vector}), dense.matvec({name: vector.double()})
        for other in operator.names:
            error = (found[other].double() - expected[other]).norm()
            assert error <= tolerance * dense.matrix.norm() * vector.norm(), (name, other)


def dense_of(moment, matrix):
    _, index = dense_hessian(moment.model, [moment.batch], moment.loss)
    return DenseOperator.cut(matrix, moment.blocks, index)


@pytest.mark.parametrize("max_examples", [None, 5])
def test_gauss_newton_equals_the_explicit_product(moment, max_examples):
    operator = GaussNewton(moment.model, [moment.batch], logits, cross_entropy, moment.blocks,
                           dtype=torch.float64, max_examples=max_examples)
    matrix = dense_gauss_newton(moment.model, moment.batch, logits, cross_entropy)
    assert_same_columns(operator, dense_of(moment, matrix))
    assert operator.objective.value == pytest.approx(float(moment.loss(moment.model.double(), moment.batch)))


@pytest.mark.parametrize("max_examples", [None, 5])
def test_empirical_fisher_equals_the_mean_of_outer_products(moment, max_examples):
    operator = EmpiricalFisher(moment.model, [moment.batch], each_loss, moment.blocks, dtype=torch.float64,
                               max_examples=max_examples)
    matrix = dense_empirical_fisher(moment.model, moment.batch, each_loss)
    assert_same_columns(operator, dense_of(moment, matrix))


def test_float32(tiny):
    operator = GaussNewton(tiny.model, [tiny.batch], logits, cross_entropy, tiny.blocks)
    matrix = dense_gauss_newton(tiny.model, tiny.batch, logits, cross_entropy)
    assert_same_columns(operator, dense_of(tiny, matrix), 1e-5)


def test_gauss_newton_is_positive_and_equals_the_hessian_where_the_model_is_linear(tiny):
    operator = GaussNewton(tiny.model, [tiny.batch], logits, cross_entropy, tiny.blocks, dtype=torch.float64)
    for seed in range(5):
        vector = vectors(operator, seed)
        product = operator.matvec(vector)
        assert sum(float(vector[name] @ product[name]) for name in vector) >= -1e-10
    hessian = Hessian(tiny.model, [tiny.batch], tiny.loss, tiny.blocks, dtype=torch.float64)
    vector = {"classifier": vectors(operator)["classifier"]}
    torch.testing.assert_close(operator.matvec(vector, ("classifier",)), hessian.matvec(vector, ("classifier",)))
    residual = Difference(hessian, operator)
    assert float(residual.own("classifier", vector["classifier"]).norm()) < 1e-12
    whole = vectors(operator)
    difference, one, other = residual.matvec(whole), hessian.matvec(whole), operator.matvec(whole)
    for name in whole:
        torch.testing.assert_close(difference[name], one[name] - other[name])
    assert float(difference["L0.Q"].norm()) > 0


def test_a_regression_and_a_linear_loss(tiny):
    def squares(outputs, batch):
        return (outputs - batch[1][:, None]).square().mean()

    operator = GaussNewton(tiny.model, [tiny.batch], logits, squares, tiny.blocks, dtype=torch.float64)
    assert_same_columns(operator, dense_of(tiny, dense_gauss_newton(tiny.model, tiny.batch, logits, squares)))
    flat = GaussNewton(tiny.model, [tiny.batch], logits, lambda found, batch: found.mean(), tiny.blocks)
    assert all(float(part.abs().max()) == 0 for part in flat.matvec(vectors(flat)).values())


def test_outputs_that_cannot_be_used(tiny):
    with pytest.raises(CaseError, match="found tuple"):
        GaussNewton(tiny.model, [tiny.batch], lambda m, b: (m(b[0]),), lambda o, b: cross_entropy(o[0], b)).matvec(
            {"norm.weight": torch.ones(4)}
        )
    with pytest.raises(CaseError, match=r"one number per example, found shape \(12, 3\)"):
        EmpiricalFisher(tiny.model, [tiny.batch], logits).matvec({"norm.weight": torch.ones(4)})


def test_rescaled_and_shifted_operators(tiny):
    matrix, index = dense_hessian(tiny.model, [tiny.batch], tiny.loss)
    dense = DenseOperator.cut(matrix, tiny.blocks, index)
    scales = {name: torch.rand(size, dtype=torch.float64) for name, size in dense.sizes.items()}
    D = torch.cat(list(scales.values()))
    expected = DenseOperator(D[:, None] * dense.matrix * D, dense.sizes)
    assert_same_columns(Rescaled(dense, scales), expected)
    shifted = DenseOperator(dense.matrix.clone(), dense.sizes)
    place = dense.place["mlp"]
    shifted.matrix[place, place] += 3 * torch.eye(dense.sizes["mlp"], dtype=torch.float64)
    assert_same_columns(Shifted(dense, {"mlp": 3.0}), shifted)
    with pytest.raises(ValueError, match=r"block 'L0\.Q' needs 20 scales, found none"):
        Rescaled(dense, {})
    scales["norm"][0] = -1
    with pytest.raises(ValueError, match="finite and not negative"):
        Rescaled(dense, scales)
    with pytest.raises(ValueError, match="same blocks"):
        Difference(dense, DenseOperator(torch.eye(2), {"a": 2}))
