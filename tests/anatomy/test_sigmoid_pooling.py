"""A sigmoid where a softmax would be: pooling by one number per position is attention, a gate per feature is none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attnscope.anatomy.blocks import Anatomy
from attnscope.anatomy.trace import trace
from attnscope.examine import diagnose

HIDDEN = torch.randn(3, 7, 8, generator=torch.Generator().manual_seed(1))


class Pooling(nn.Module):
    def __init__(self, normaliser: str, n_heads: int = 1, masked: bool = False) -> None:
        super().__init__()
        self.inner, self.last = nn.Linear(8, 8), nn.Linear(8, n_heads, bias=False)
        self.normaliser, self.masked = normaliser, masked

    def forward(self, hidden: Tensor) -> Tensor:
        scores = self.last(torch.tanh(self.inner(hidden)))
        if self.masked:
            scores = scores.masked_fill(hidden[..., :1] > 2, -1e9)
        pattern = torch.softmax(scores, 1) if self.normaliser == "softmax" else scores.sigmoid()
        return (pattern * hidden).sum(1)


class Network(nn.Module):
    def __init__(self, *poolings: nn.Module) -> None:
        super().__init__()
        self.poolings, self.head = nn.ModuleList(poolings), nn.Linear(8, 4)

    def forward(self, hidden: Tensor) -> Tensor:
        pooled = torch.stack([pooling(hidden) for pooling in self.poolings])
        return self.head(pooled.sum(0))


def traced(*poolings: nn.Module) -> Anatomy:
    torch.manual_seed(0)
    return trace(Network(*poolings).eval(), (HIDDEN, torch.zeros(3)), lambda model, batch: model(batch[0]))


@pytest.mark.parametrize("masked", [False, True])
def test_one_sigmoid_per_position_is_additive_attention(masked: bool) -> None:
    (found,) = traced(Pooling("sigmoid", masked=masked)).attentions
    assert (found.softmax.normaliser, found.n_keys, found.form.value) == ("sigmoid", 7, "additive")
    assert set(found.blocks) == {"query", "key"}


def test_a_gate_per_feature_is_no_attention() -> None:
    assert traced(Pooling("sigmoid", n_heads=8)).attentions == ()


class Excitation(nn.Module):
    """Squeeze and excitation: a gate per channel, from the mean over the positions."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(8, 8)

    def forward(self, hidden: Tensor) -> Tensor:
        return (torch.sigmoid(self.gate(hidden.mean(1))).unsqueeze(1) * hidden).sum(1)


class Experts(nn.Module):
    """A sigmoid router: its numbers weigh experts, not positions."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(8, 3)
        self.experts = nn.Parameter(torch.randn(3, 8, 8))

    def forward(self, hidden: Tensor) -> Tensor:
        made = torch.einsum("btd,edf->btef", hidden, self.experts)
        return (torch.sigmoid(self.router(hidden)).unsqueeze(-1) * made).sum(2).mean(1)


@pytest.mark.parametrize("gate", [Excitation, Experts])
def test_other_sigmoid_gates_are_no_attention(gate: type[nn.Module]) -> None:
    assert traced(gate()).attentions == ()


def test_rows_beside_a_softmax_of_the_same_class_are_surer() -> None:
    def said(*normalisers: str) -> list[tuple[str, float]]:
        torch.manual_seed(0)
        model = Network(*(Pooling(normaliser) for normaliser in normalisers)).eval()
        batch = (HIDDEN, torch.tensor([0, 1, 2]))
        findings = diagnose(model, [batch], select=["rows_not_normalised"]).findings
        return [(finding.block_or_site, finding.stated) for finding in findings]

    assert said("softmax", "softmax") == []
    assert said("softmax", "sigmoid") == [("L1.softmax", 0.85)]
    assert said("sigmoid") == [("L0.softmax", 0.6)]
