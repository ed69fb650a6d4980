"""A normalisation whose gain is unlike that of the same place in the other layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attnscope.examine import diagnose
from attnscope.models.gpt import Gpt

TOKENS = torch.randint(0, 11, (4, 9), generator=torch.Generator().manual_seed(3))


def said(n_layers: int = 3, **gains: float) -> list[str]:
    """Findings where `norm_mlp_1=2.0` multiplies the gain of that normalisation of layer 1."""
    torch.manual_seed(0)
    model = Gpt(n_tokens=11, n_positions=16, d_model=16, n_heads=4, n_layers=n_layers).eval()
    for name, gain in gains.items():
        norm, _, layer = name.rpartition("_")
        with torch.no_grad():
            getattr(model.blocks[int(layer)], norm).weight.mul_(gain)

    def loss(output: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return nn.functional.cross_entropy(output[:, :-1].flatten(0, 1), batch["input_ids"][:, 1:].flatten())

    findings = diagnose(model, [{"input_ids": TOKENS}], loss=loss, select=["norm_gain"]).findings
    return [finding.block_or_site for finding in findings]


@pytest.mark.parametrize("gain", [0.5, 2.0, 5.0])
@pytest.mark.parametrize("norm", ["norm_attention", "norm_mlp"])
def test_a_gain_unlike_its_siblings_is_named(gain: float, norm: str) -> None:
    assert said(**{f"{norm}_1": gain}) == [f"blocks.1.{norm}"]


def test_gains_that_vary_with_depth_or_agree_are_silent() -> None:
    assert said() == []
    assert said(norm_mlp_0=2.0, norm_mlp_1=2.0, norm_mlp_2=2.0) == []
    assert said(norm_mlp_0=0.3, norm_mlp_1=0.6, norm_mlp_2=1.2) == []
    assert said(norm_mlp_1=1.3) == []


def test_one_sibling_does_not_tell_which_is_wrong() -> None:
    assert said(2, norm_mlp_1=5.0) == []
