"""What `observe` and `replay` promise beyond the numbers that the conformance tests compare."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attnscope.anatomy.observe import observe
from attnscope.anatomy.replay import replay
from attnscope.anatomy.trace import trace
from attnscope.calling import default_forward
from attnscope.errors import TraceError


class Attend(nn.Module):
    """Causal attention of two heads; by hand, by kernel, or in place."""

    def __init__(self, how: str = "hand") -> None:
        super().__init__()
        self.qkv, self.out, self.how = nn.Linear(6, 18), nn.Linear(6, 6), how

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (part.view(b, n, 2, 3).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        if self.how == "kernel":
            mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            scores = q @ k.mT
            allowed = torch.ones(n, n, dtype=torch.bool).tril()
            if self.how == "in place":
                scores.mul_(3**-0.5).masked_fill_(~allowed, -torch.inf)
            else:
                scores = (scores * 3**-0.5).masked_fill(~allowed, -torch.inf)
            mixed = scores.softmax(-1) @ v
        return x + self.out(mixed.transpose(1, 2).reshape(b, n, 6))


def made(how: str = "hand") -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return Attend(how).eval(), torch.randn(2, 5, 6)


@pytest.mark.parametrize("how", ["hand", "kernel", "in place"])
def test_tensors_agree_with_one_another(how: str) -> None:
    model, x = made(how)
    found = observe(model, x, anatomy=trace(model, x), forward=default_forward).attentions[0]
    assert found.query is not None and found.key is not None and found.value is not None  # noqa: PT018
    assert found.raw_scores is not None and found.allowed is not None and found.output is not None  # noqa: PT018
    torch.testing.assert_close(found.raw_scores, found.query @ found.key.mT)
    expected = (found.raw_scores * 3**-0.5).masked_fill(~found.allowed, -torch.inf)
    torch.testing.assert_close(found.scores, expected)
    torch.testing.assert_close(found.pattern, expected.softmax(-1))
    torch.testing.assert_close(found.context, found.pattern @ found.value)
    torch.testing.assert_close(found.hidden, x)
    with torch.no_grad():
        torch.testing.assert_close(x + found.output, model(x))
    assert not found.scores.requires_grad


def test_another_batch_of_another_shape() -> None:
    model, x = made()
    anatomy = trace(model, x)
    found = observe(model, torch.randn(3, 4, 6), anatomy=anatomy, forward=default_forward).attentions[0]
    assert tuple(found.pattern.shape) == (3, 2, 4, 4)


@pytest.mark.parametrize("how", ["hand", "kernel", "in place"])
def test_gradients_reach_the_parameters(how: str) -> None:
    model, x = made(how)
    weight = model.qkv.weight
    found = observe(model, x, anatomy=trace(model, x), forward=default_forward, grad=True)
    assert torch.equal(found.output, model(x))
    gradient = torch.autograd.grad(found.attentions[0].pattern.square().sum(), weight, retain_graph=True)[0]
    with torch.no_grad():
        change, step = torch.randn_like(weight), 1e-3
        values = []
        for sign in (1, -1):
            weight += sign * step * change
            seen = observe(model, x, anatomy=trace(model, x), forward=default_forward).attentions[0]
            values.append(float(seen.pattern.square().sum()))
            weight -= sign * step * change
    expected = (values[0] - values[1]) / (2 * step)
    assert float((gradient * change).sum()) == pytest.approx(expected, rel=0.02, abs=1e-3)


def test_replay_changes_what_follows_and_nothing_else() -> None:
    model, x = made()
    anatomy = trace(model, x)
    softmax = anatomy.attentions[0].softmax
    assert softmax is not None
    assert softmax.index is not None
    seen: list[tuple[int, ...]] = []

    def uniform(output: Tensor, args: tuple[Any, ...]) -> Tensor:
        seen.append(tuple(output.shape))
        return torch.full_like(output, 1 / output.shape[-1])

    with torch.no_grad():
        expected = model(x)
        v = model.qkv(x).chunk(3, -1)[2].mean(1, keepdim=True).expand(2, 5, 6)
        averaged = x + model.out(v)
    assert torch.equal(replay(model, x, forward=default_forward, replace={}), expected)
    changed = replay(model, x, forward=default_forward, replace={softmax.index: uniform})
    torch.testing.assert_close(changed, averaged)
    assert seen == [(2, 2, 5, 5)]


def test_a_run_that_shows_other_attentions_is_refused() -> None:
    class Sometimes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attend = Attend()

        def forward(self, x: Tensor) -> Tensor:
            return self.attend(x) if x.shape[1] > 3 else x

    model = Sometimes()
    anatomy = trace(model, torch.randn(2, 5, 6))
    with pytest.raises(TraceError, match="Sometimes shows 0 attentions on this batch and 1"):
        observe(model, torch.randn(2, 2, 6), anatomy=anatomy, forward=default_forward)
