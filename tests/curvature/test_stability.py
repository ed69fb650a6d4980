"""The stability limits against simulated optimisers, and the preconditioned Hessian against a dense one."""

import pytest
import torch
from torch import nn

from attnscope.curvature.cohen2022adaptive import seen_by, steps_of
from attnscope.curvature.hessian import Hessian
from attnscope.curvature.lanczos import lanczos
from attnscope.errors import CaseError
from reference.curvature_cases import tiny_batch, tiny_blocks, tiny_loss
from reference.dense_curvature import DenseOperator, dense_hessian


class Bowl(nn.Module):
    """A quadratic with one eigenvalue per parameter."""

    def __init__(self, curvatures):
        super().__init__()
        self.x = nn.Parameter(torch.full((len(curvatures),), 1e-3, dtype=torch.float64))
        self.register_buffer("curvatures", torch.tensor(curvatures, dtype=torch.float64))

    def forward(self):
        return (self.curvatures * self.x.square()).sum() / 2


MAKERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "heavy ball": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "damped": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, dampening=0.5),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "penalised": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.5, weight_decay=3.0),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.9, 1 - 1e-9)),
    "adam, other momentum": lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.5, 1 - 1e-9)),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.9, 1 - 1e-9), amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, betas=(0.9, 1 - 1e-9), weight_decay=0.0),
}


def settled(optimizer, parameter):
    """Adam long after warm-up: its denominator is a given number that hardly moves."""
    if isinstance(optimizer, torch.optim.SGD):
        return
    optimizer.state[parameter] = {
        "step": torch.tensor(1e12, dtype=torch.float64), "exp_avg": torch.zeros_like(parameter),
        "exp_avg_sq": torch.full_like(parameter, 4.0), "max_exp_avg_sq": torch.full_like(parameter, 4.0),
    }


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize(("factor", "stable"), [(0.97, True), (1.03, False)])
def test_training_diverges_exactly_beyond_the_limit(maker, factor, stable):
    probe = Bowl([1.0])
    optimizer = maker([probe.x])
    settled(optimizer, probe.x)
    blocks = {"x": Hessian(probe, [()], lambda m, b: m()).blocks["x"]}
    steps = steps_of(optimizer, probe, blocks)
    edge = steps.limits["x"] / float(steps.rates["x"][0]) - steps.decay["x"]

    bowl = Bowl([factor * edge])
    optimizer = maker([bowl.x])
    settled(optimizer, bowl.x)
    hessian = Hessian(bowl, [()], lambda m, b: m(), dtype=torch.float64)
    top = lanczos(seen_by(optimizer, bowl, hessian.blocks, hessian), max_steps=2)["x"].top
    assert (top < 1) == stable
    furthest = 0.0
    for _ in range(400):
        optimizer.zero_grad()
        bowl().backward()
        optimizer.step()
        furthest = max(furthest, float(bowl.x.detach().abs()))
    # An unstable Adam catches itself later, when its denominator has grown with the gradient.
    assert (furthest < 0.1) == stable
    if stable:
        assert float(bowl.x.detach().abs()) < 1e-4


def test_the_known_limits():
    model = Bowl([1.0])
    blocks = Hessian(model, [()], lambda m, b: m()).blocks
    plain = steps_of(torch.optim.SGD(model.parameters(), lr=0.1), model, blocks)
    assert plain.limits["x"] == 2
    assert steps_of(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), model, blocks).limits["x"] == 3.8
    adam = torch.optim.Adam(model.parameters(), lr=0.1)
    assert steps_of(adam, model, blocks).limits["x"] == pytest.approx(38)
    assert not steps_of(adam, model, blocks).warm
    with pytest.raises(CaseError, match="has not made a step yet"):
        seen_by(adam, model, blocks, Hessian(model, [()], lambda m, b: m()))


def test_adam_after_real_training_against_a_dense_matrix(tiny):
    model = tiny.model
    optimizer = torch.optim.Adam([
        {"params": model.in_proj.parameters(), "lr": 1e-3},
        {"params": [p for name, p in model.named_parameters() if not name.startswith("in_proj")], "lr": 1e-2},
    ])
    for _ in range(20):
        optimizer.zero_grad()
        tiny_loss(model, tiny_batch()).backward()
        optimizer.step()
    blocks = tiny_blocks(model)
    matrix, index = dense_hessian(model, [tiny_batch()], tiny_loss)
    dense = DenseOperator.cut(matrix, blocks, index)
    P = torch.cat([
        torch.full((p.numel(),), lr, dtype=torch.float64)
        / ((optimizer.state[p]["exp_avg_sq"].double() / (1 - 0.999**20)).sqrt().flatten() + 1e-8)
        for name, p in model.named_parameters() for lr in [1e-3 if name.startswith("in_proj") else 1e-2]
    ])
    where = {name: P[index[name].reshape(-1)].view(index[name].shape) for name in index}
    hessian = Hessian(model, [tiny_batch()], tiny_loss, blocks, dtype=torch.float64)
    found = lanczos(seen_by(optimizer, model, hessian.blocks, hessian), max_steps=60, tolerance=1e-8)
    for name in ("L0.O", "norm", "classifier"):
        rates = torch.cat([where[part.parameter].reshape(-1) for part in hessian.blocks[name].slices])
        values = torch.linalg.eigvals(rates[:, None] * dense.block(name, name)).real
        assert found[name].top == pytest.approx(float(values.max()) / 38, rel=1e-4), name


def test_what_is_not_trained_has_no_steps(tiny):
    optimizer = torch.optim.SGD(tiny.model.classifier.parameters(), lr=0.1)
    steps = steps_of(optimizer, tiny.model, {block.name: block for block in tiny.blocks})
    assert float(steps.rates["L0.Q"].abs().max()) == 0
    assert float(steps.rates["classifier"].min()) == pytest.approx(0.1)
    hessian = Hessian(tiny.model, [tiny.batch], tiny.loss, tiny.blocks)
    seen = seen_by(optimizer, tiny.model, hessian.blocks, hessian)
    assert float(seen.own("L0.Q", torch.ones(20)).norm()) == 0


def test_unknown_optimisers_are_refused(tiny):
    blocks = {block.name: block for block in tiny.blocks}
    with pytest.raises(CaseError, match="the steps of Adagrad are not known"):
        steps_of(torch.optim.Adagrad(tiny.model.parameters()), tiny.model, blocks)
    with pytest.raises(CaseError, match="maximises"):
        steps_of(torch.optim.SGD(tiny.model.parameters(), lr=0.1, maximize=True), tiny.model, blocks)
    mixed = torch.optim.SGD([
        {"params": [tiny.model.classifier.weight], "momentum": 0.9}, {"params": [tiny.model.classifier.bias]},
    ], lr=0.1)
    with pytest.raises(CaseError, match="several momenta"):
        steps_of(mixed, tiny.model, blocks)
