"""Which added numbers forbid, and when a mask is causal."""

from __future__ import annotations

import math

import pytest
import torch

from attnscope.anatomy.masks import forbidden_by, is_causal

LOWER = torch.ones(5, 5, dtype=torch.bool).tril()


def masked(fill: float, bias: float = 0.0) -> torch.Tensor:
    torch.manual_seed(0)
    return (torch.randn(5, 5) * bias).masked_fill(~LOWER, fill) if math.isinf(fill) or fill < -1e30 else (
        torch.randn(5, 5) * bias + torch.zeros(5, 5).masked_fill(~LOWER, fill)
    )


@pytest.mark.parametrize("fill", [-math.inf, torch.finfo(torch.float32).min, -1e9, -1e4, -100.0])
@pytest.mark.parametrize("bias", [0.0, 3.0])
def test_a_prohibition_is_found_with_and_without_a_bias(fill: float, bias: float) -> None:
    forbidden = forbidden_by(masked(fill, bias), learned=bias > 0)
    assert forbidden is not None
    assert torch.equal(forbidden, ~LOWER)


@pytest.mark.parametrize("fill", [-1.0, -5.0, -10.0])
def test_a_constant_of_two_values_is_a_mask_however_weak(fill: float) -> None:
    forbidden = forbidden_by(masked(fill), learned=False)
    assert forbidden is not None
    assert torch.equal(forbidden, ~LOWER)


def test_biases_forbid_nothing() -> None:
    assert forbidden_by(torch.randn(5, 5), learned=True) is None
    distance = (torch.arange(4096)[:, None] - torch.arange(4096)[None]).abs().float()
    assert forbidden_by(-0.5 * distance, learned=False) is None
    assert forbidden_by(-0.5 * distance[:5, :5], learned=False) is None


def test_a_mask_over_a_bias_by_distance() -> None:
    distance = (torch.arange(400)[:, None] - torch.arange(400)[None]).abs().float()
    allowed = torch.ones(400, 400, dtype=torch.bool).tril()
    for fill in (-math.inf, -1e9):
        forbidden = forbidden_by(-0.5 * distance + torch.zeros(400, 400).masked_fill(~allowed, fill), learned=False)
        assert forbidden is not None
        assert torch.equal(forbidden, ~allowed)


def canonical(allowed: torch.Tensor) -> torch.Tensor:
    return allowed[None, None]


def test_causal_masks() -> None:
    assert is_causal(canonical(LOWER)) is True
    padded = LOWER & torch.tensor([False, False, True, True, True])
    assert is_causal(torch.stack([padded, LOWER])[:, None]) is True
    window = LOWER & ~torch.ones(5, 5, dtype=torch.bool).tril(-2)
    assert is_causal(canonical(window)) is True
    longer = torch.ones(3, 5, dtype=torch.bool).tril(2)
    assert is_causal(canonical(longer)) is True


def test_masks_that_are_not_causal() -> None:
    everything = torch.ones(5, 5, dtype=torch.bool)
    assert is_causal(canonical(everything)) is False
    assert is_causal(canonical(everything.tril(1))) is False
    assert is_causal(canonical(everything & torch.tensor([True, True, True, False, False]))) is False
    assert is_causal(canonical(everything.triu())) is False
    assert is_causal(canonical(everything[:1])) is None
