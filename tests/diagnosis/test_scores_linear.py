"""A scoring network without its activation, beside one of the same class that has it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attnscope.examine import diagnose

HIDDEN = torch.randn(6, 7, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(6) % 4


class Scoring(nn.Module):
    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.inner, self.query, self.activation = nn.Linear(8, 8), nn.Parameter(torch.randn(8)), activation

    def forward(self, hidden: Tensor) -> Tensor:
        scores = self.activation(self.inner(hidden)) @ self.query
        return (torch.softmax(scores, 1).unsqueeze(-1) * hidden).sum(1)


class Network(nn.Module):
    def __init__(self, *activations: nn.Module) -> None:
        super().__init__()
        self.parts, self.head = nn.ModuleList(Scoring(each) for each in activations), nn.Linear(8, 4)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.head(sum(part(hidden) for part in self.parts))


def said(*activations: nn.Module) -> list[tuple[str, str]]:
    torch.manual_seed(0)
    model = Network(*activations).eval()
    findings = diagnose(model, [(HIDDEN, LABELS)], select=["scores_linear", "wrong_scale"]).findings
    return [(finding.kind, finding.block_or_site) for finding in findings]


def test_the_one_without_an_activation_is_named_and_its_scale_is_not() -> None:
    assert said(nn.Tanh(), nn.Identity()) == [("scores_linear", "L1.scores")]
    assert said(nn.Identity(), nn.Tanh(), nn.ReLU()) == [("scores_linear", "L0.scores")]


def test_attentions_that_agree_are_silent() -> None:
    assert said(nn.Tanh(), nn.Tanh()) == []
    assert said(nn.Tanh(), nn.ReLU()) == []
    assert ("scores_linear", "L0.scores") not in said(nn.Identity(), nn.Identity())
    assert ("scores_linear", "L0.scores") not in said(nn.Identity())
