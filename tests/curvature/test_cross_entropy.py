"""Cross-entropy with written-down derivatives is cross-entropy, and holds less."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from attnscope.curvature import cross_entropy as module
from attnscope.curvature.cross_entropy import LeanCrossEntropy, lean_cross_entropy
from attnscope.curvature.hessian import Hessian
from attnscope.curvature.kernels import twice_differentiable


def rows(n=7, classes=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(n, classes, generator=generator, dtype=dtype)
    target = torch.randint(0, classes, (n,), generator=generator)
    return logits.requires_grad_(True), target


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("ignored", [(), (0, 4)])
@pytest.mark.parametrize("at_once", [1, 1 << 22])
def test_value_and_both_derivatives(reduction, ignored, at_once, monkeypatch):
    monkeypatch.setattr(module, "ROWS_AT_ONCE", at_once)
    logits, target = rows()
    target[list(ignored)] = -100
    vector = torch.randn(logits.shape, dtype=logits.dtype, generator=torch.Generator().manual_seed(1))
    found = []
    for function in (lean_cross_entropy, cross_entropy):
        # A square outside makes the upstream factor count, and its own second derivative.
        loss = function(logits, target, reduction=reduction).square()
        (gradient,) = torch.autograd.grad(loss, logits, create_graph=True)
        (product,) = torch.autograd.grad(gradient, logits, vector)
        found.append((loss.detach(), gradient.detach(), product))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_gradients_by_differences():
    logits, target = rows(4, 3)
    target[1] = -100
    assert torch.autograd.gradcheck(lambda x: lean_cross_entropy(x, target), logits)
    assert torch.autograd.gradgradcheck(lambda x: lean_cross_entropy(x, target), logits)


def test_rows_that_do_not_count_may_hold_anything():
    logits, target = rows()
    target[2] = -100
    wild = logits.detach().clone()
    wild[2] = float("nan")
    wild.requires_grad_(True)
    loss = lean_cross_entropy(wild, target)
    (gradient,) = torch.autograd.grad(loss, wild, create_graph=True)
    (product,) = torch.autograd.grad(gradient, wild, torch.ones_like(wild))
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert product.isfinite().all()
    assert float(loss.detach()) == pytest.approx(cross_entropy(wild, target).item())


def test_very_large_scores_stay_finite():
    logits = torch.tensor([[1e4, 0.0], [-1e4, 0.0]], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 0])
    assert lean_cross_entropy(logits, target).item() == pytest.approx(cross_entropy(logits, target).item())


def test_nearly_certain_rows_lose_no_digits():
    """Where the target's probability is all but 1, differences from 1 and from the mean would cancel."""
    logits, target = rows(3, 4, torch.float32)
    with torch.no_grad():
        logits[range(3), target] += 14
    u, v = (torch.randn(logits.shape, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))

    def products(scores, function):
        (gradient,) = torch.autograd.grad(function(scores, target), scores, create_graph=True)
        return gradient.detach(), *(
            torch.autograd.grad(gradient, scores, w.to(scores.dtype), retain_graph=True)[0] for w in (u, v)
        )

    ours = products(logits, lean_cross_entropy)
    exact = products(logits.detach().double().requires_grad_(True), cross_entropy)
    for found, expected in zip(ours, exact, strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)
    one, other = float((u * ours[2]).sum()), float((v * ours[1]).sum())
    assert one == pytest.approx(other, rel=1e-5)


@pytest.mark.parametrize("more", [
    {"weight": torch.ones(5, dtype=torch.float64)}, {"label_smoothing": 0.1}, {"reduction": "none"},
])
def test_other_forms_are_left_to_pytorch(more, monkeypatch):
    logits, target = rows()
    monkeypatch.setattr(module, "lean_cross_entropy", lambda *_: pytest.fail("must not be used"))
    with LeanCrossEntropy():
        assert torch.equal(cross_entropy(logits, target, **more), cross_entropy(logits, target, **more))
        soft = torch.full((7, 5), 0.2, dtype=torch.float64)
        assert cross_entropy(logits, soft).isfinite()
        assert cross_entropy(logits.view(7, 5, 1), target.view(7, 1)).isfinite()


def test_a_target_out_of_range_is_pytorchs_error():
    logits, target = rows()
    target[0] = 9
    with LeanCrossEntropy(), pytest.raises(IndexError):
        cross_entropy(logits, target)


def test_it_is_used_by_modules_and_changes_no_product():
    torch.manual_seed(0)
    model = nn.Linear(4, 6)
    batch = torch.randn(9, 4), torch.randint(0, 6, (9,))
    loss = nn.CrossEntropyLoss()
    called = []
    with twice_differentiable(model, torch.float32):
        value = loss(model(batch[0]), batch[1])
        called.append(type(value.grad_fn.next_functions[0][0]).__name__)
    assert called == ["_LossBackward"]
    operator = Hessian(model, [batch], lambda m, b: loss(m(b[0]), b[1]), dtype=torch.float64)
    vector = torch.ones(operator.sizes["weight"], dtype=torch.float64)
    found = operator.own("weight", vector)
    weights = model.weight.detach().double().clone().requires_grad_(True)
    value = cross_entropy(batch[0].double() @ weights.T + model.bias.detach().double(), batch[1])
    (gradient,) = torch.autograd.grad(value, weights, create_graph=True)
    (expected,) = torch.autograd.grad(gradient, weights, vector.view_as(weights))
    torch.testing.assert_close(found, expected.reshape(-1), rtol=1e-10, atol=1e-12)


def test_it_keeps_less():
    """What autograd keeps for the second derivative, counted in saved numbers: half."""

    def kept(function):
        logits, target = rows(64, 500, torch.float32)
        sizes = {}

        def note(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            (gradient,) = torch.autograd.grad(function(logits * 1.0, target), logits, create_graph=True)
        return sum(sizes.values()) / logits.numel(), gradient

    ours, _ = kept(lean_cross_entropy)
    theirs, _ = kept(cross_entropy)
    assert ours <= 1.2
    assert theirs >= 1.9 * ours
