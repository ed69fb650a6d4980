"""Neurons masked behind the activation are named at their network; dead ReLUs, dropout and sparse ones are not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from attnscope.case import Case
from attnscope.examine import diagnose
from attnscope.findings import Finding

Between = Callable[[Tensor], Tensor]


class Layer(nn.Module):
    """Attention and a feed-forward network, with something between its two maps."""

    def __init__(self, activation: Between, between: Between = lambda inner: inner) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.norm = nn.LayerNorm(16)
        self.up, self.down = nn.Linear(16, 24), nn.Linear(24, 16)
        self.classifier = nn.Linear(16, 3)
        self.activation, self.between = activation, between

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = tokens + self.attention(tokens, tokens, tokens)[0]
        hidden = hidden + self.down(self.between(self.activation(self.up(self.norm(hidden)))))
        return self.classifier(hidden.mean(1))


def found(model: nn.Module) -> list[Finding]:
    generator = torch.Generator().manual_seed(1)
    batch = (torch.randn(6, 9, 16, generator=generator), torch.arange(6) % 3)
    return list(diagnose(Case(model, [batch]), select=["PRJ312"]).findings)


def masked(inner: Tensor) -> Tensor:
    return inner * (torch.arange(inner.shape[-1]) >= 5)


@pytest.mark.parametrize("activation", [nn.functional.gelu, torch.relu, nn.functional.silu, torch.tanh])
def test_masked_neurons(activation: Between) -> None:
    (finding,) = found(Layer(activation, masked))
    assert (finding.kind, finding.block_or_site, finding.layer) == ("neurons_dropped", "up", 0)
    assert "5 of 24" in finding.evidence[0].statement
    assert finding.evidence[0].exact


def largest_few(inner: Tensor) -> Tensor:
    return inner * (inner >= inner.topk(3, -1).values[..., -1:])


def dropout_of_channels(inner: Tensor) -> Tensor:
    return inner * (torch.rand(inner.shape[0], 1, inner.shape[-1]) > 0.9)


@pytest.mark.parametrize("between", [lambda inner: inner, largest_few, dropout_of_channels, torch.zeros_like])
@pytest.mark.parametrize("activation", [nn.functional.gelu, torch.relu])
def test_sound_sparse_and_all_silent_networks(activation: Between, between: Between) -> None:
    assert not found(Layer(activation, between))


def test_dead_relus() -> None:
    model = Layer(torch.relu)
    with torch.no_grad():
        model.up.bias[:4] = -100
    assert not found(model)


def test_numbers_that_are_not_finite() -> None:
    model = Layer(torch.relu, masked)
    with torch.no_grad():
        model.up.weight[0, 0] = float("inf")
    assert not found(model)
