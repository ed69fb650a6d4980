"""Products with the Hessian against the dense matrix, at three moments of training."""

import pytest
import torch

from attnscope.curvature.hessian import Hessian
from reference.dense_curvature import DenseOperator, dense_hessian, difference_hessian


def both(case, **options):
    options.setdefault("dtype", torch.float64)
    operator = Hessian(case.model, [case.batch], case.loss, case.blocks, **options)
    matrix, index = dense_hessian(case.model, [case.batch], case.loss)
    return operator, DenseOperator.cut(matrix, case.blocks, index)


def probe(operator, name, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(operator.sizes[name], generator=generator, dtype=torch.float64).to(operator.dtype)


def test_the_dense_twin_agrees_with_differences_of_the_gradient(tiny):
    matrix, index = dense_hessian(tiny.model, [tiny.batch], tiny.loss)
    by_differences = difference_hessian(tiny.model, tiny.batch, tiny.loss)
    # padding_idx freezes its row: autograd gives that row no gradient, and so no curvature.
    padding = index["embedding.weight"][0]
    assert float(matrix[padding].abs().max()) == float(matrix[:, padding].abs().max()) == 0
    by_differences[padding] = 0
    assert (matrix - by_differences).norm() <= 1e-7 * matrix.norm()


def test_every_block_column_equals_the_dense_matrix(moment):
    operator, dense = both(moment)
    scale = dense.matrix.norm()
    for name in operator.names:
        vector = probe(operator, name)
        product, expected = operator.matvec({name: vector}), dense.matvec({name: vector})
        for other in operator.names:
            assert (product[other] - expected[other]).norm() <= 1e-12 * scale * vector.norm(), (name, other)


def test_a_vector_on_several_blocks_and_fewer_outputs(moment):
    operator, dense = both(moment)
    vectors = {name: probe(operator, name) for name in ("L0.Q", "norm", "classifier")}
    found = operator.matvec(vectors, ("L0.K", "embedding"))
    assert set(found) == {"L0.K", "embedding"}
    for name, vector in dense.matvec(vectors, ("L0.K", "embedding")).items():
        torch.testing.assert_close(found[name], vector, rtol=1e-10, atol=1e-12)


def test_symmetry_of_the_whole_operator(moment):
    operator, _ = both(moment)
    u = {name: probe(operator, name, 1) for name in operator.names}
    v = {name: probe(operator, name, 2) for name in operator.names}
    left = sum(u[name] @ vector for name, vector in operator.matvec(v).items())
    right = sum(v[name] @ vector for name, vector in operator.matvec(u).items())
    torch.testing.assert_close(left, right, rtol=1e-11, atol=1e-12)


def test_gradient_is_that_of_plain_autograd(tiny):
    operator, _ = both(tiny)
    model = tiny.model.double().eval()
    names = [name for name, _ in model.named_parameters()]
    found = torch.autograd.grad(tiny.loss(model, tiny.batch), list(model.parameters()))
    plain = dict(zip(names, found, strict=True))
    torch.testing.assert_close(operator.gradient()["L0.K"][:16], plain["in_proj.weight"][4:8].reshape(-1))
    torch.testing.assert_close(operator.gradient()["classifier"][:12], plain["classifier.weight"].reshape(-1))


def test_float32_agrees_to_its_precision(moment):
    operator, dense = both(moment, dtype=torch.float32)
    # Near a converged loss of 1e-4, probability minus target has lost three of seven digits.
    tolerance = 2e-5 if operator.objective.value > 0.01 else 2e-3
    for name in operator.names:
        vector = probe(operator, name)
        found = operator.matvec({name: vector})
        expected = dense.matvec({name: vector.double()})
        error = sum((found[b].double() - expected[b]).square().sum() for b in found) ** 0.5
        assert error <= tolerance * dense.matrix.norm() * vector.double().norm()


@pytest.mark.parametrize("max_examples", [1, 5, 11])
def test_splitting_the_batch_changes_nothing(tiny, max_examples):
    whole, _ = both(tiny)
    split, _ = both(tiny, max_examples=max_examples)
    assert len(split.objective.pieces) == -(-12 // max_examples)
    assert split.objective.weighing == "examples"
    assert split.objective.value == pytest.approx(whole.objective.value, rel=1e-12)
    vectors = [{name: probe(whole, name)} for name in whole.names]
    for vector in vectors:
        one, other = whole.matvec(vector), split.matvec(vector)
        for name in whole.names:
            torch.testing.assert_close(one[name], other[name], rtol=1e-9, atol=1e-11)


def test_pieces_can_be_kept_instead_of_rebuilt(tiny):
    rebuilt, _ = both(tiny, max_examples=4)
    kept, _ = both(tiny, max_examples=4, keep=3)
    vector = {"L0.Q": probe(kept, "L0.Q")}
    for _ in range(3):
        one, other = rebuilt.matvec(vector), kept.matvec(vector)
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert rebuilt.cost.graphs == pytest.approx(3)  # none of the three pieces is kept
    assert kept.cost.graphs == pytest.approx(1)


def test_the_gradient_is_held_once(tiny):
    """With one piece, the gradient that was asked for is the one that the graph holds."""
    model = torch.nn.Linear(5, 3)
    batch = torch.randn(7, 5)
    operator = Hessian(model, [batch], lambda m, b: m(b).square().mean())
    before = operator.gradient()
    operator.own("weight", torch.ones(15))
    after = operator.gradient()
    assert all(torch.equal(before[name], after[name]) for name in before)
    held = next(iter(operator._graphs.values()))["weight"]
    assert operator.objective.gradient["weight"].data_ptr() == held.data_ptr()


def test_the_operator_stays_at_its_moment_while_training_goes_on(tiny):
    operator, _ = both(tiny)
    vector = {"L0.V": probe(operator, "L0.V")}
    before = operator.matvec(vector)
    optimizer = torch.optim.SGD(tiny.model.parameters(), lr=0.5)
    tiny.loss(tiny.model, tiny.batch).backward()
    optimizer.step()
    after = operator.matvec(vector)
    assert all(torch.equal(before[name], after[name]) for name in before)
    later, _ = both(tiny)
    assert not torch.allclose(later.matvec(vector)["L0.V"], after["L0.V"], rtol=1e-3)


def test_wrong_requests_are_refused(tiny):
    operator, _ = both(tiny)
    with pytest.raises(KeyError, match=r"no block 'L9.Q'"):
        operator.matvec({"L9.Q": torch.zeros(3)})
    with pytest.raises(KeyError, match="no block 'nothing'"):
        operator.matvec({"L0.Q": probe(operator, "L0.Q")}, ("nothing",))
    with pytest.raises(ValueError, match=r"shape \(3,\); it must be flat with 20"):
        operator.matvec({"L0.Q": torch.zeros(3)})


def test_cost_is_counted(tiny):
    operator, _ = both(tiny)
    assert operator.n_products == 0
    assert operator.cost.gradients == 1
    operator.matvec({"L0.Q": probe(operator, "L0.Q")})
    operator.matvec({"L0.Q": probe(operator, "L0.Q")})
    assert operator.n_products == 2
    assert operator.cost.graphs == 1
    assert operator.cost.in_gradients > 1
