"""One layer of an encoder with a causal mask."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attnscope.examine import diagnose

HIDDEN = torch.randn(4, 6, 16, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(4)


class Layer(nn.Module):
    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.project, self.output, self.causal = nn.Linear(16, 48), nn.Linear(16, 16), causal

    def forward(self, hidden: Tensor) -> Tensor:
        query, key, value = self.project(hidden).unflatten(-1, (3, 4, 4)).permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-2, -1) / 2
        if self.causal:
            future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
            scores = scores.masked_fill(future, float("-inf"))
        context = torch.softmax(scores, -1) @ value
        return hidden + self.output(context.transpose(1, 2).flatten(2))


class Encoder(nn.Module):
    def __init__(self, causal: tuple[bool, ...]) -> None:
        super().__init__()
        self.layers, self.head = nn.ModuleList(Layer(each) for each in causal), nn.Linear(16, 4)

    def forward(self, hidden: Tensor) -> Tensor:
        for layer in self.layers:
            hidden = layer(hidden)
        return self.head(hidden.mean(1))


def said(*causal: bool) -> list[str]:
    torch.manual_seed(0)
    findings = diagnose(Encoder(causal).eval(), [(HIDDEN, LABELS)], select=["future_hidden"]).findings
    return [finding.block_or_site for finding in findings]


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_one_causal_layer_of_an_encoder_is_named(layer: int) -> None:
    assert said(*(place == layer for place in range(3))) == [f"L{layer}.mask"]


@pytest.mark.parametrize(
    "causal",
    [(False,) * 3, (True,) * 3, (True, False), (True, False, True, False), (True, True, False)],
)
def test_designs_are_silent(causal: tuple[bool, ...]) -> None:
    assert said(*causal) == []
