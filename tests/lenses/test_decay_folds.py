"""How often decay divided a block: from the optimiser's own count, and only where the decay has a law."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

import small_probes
from attnscope.lenses.decay_folds import DecayFolds
from attnscope.probe import Probe
from attnscope.readings import NOT_APPLICABLE, OK


def with_optimizer(kind: Any, **settings: Any) -> Probe:
    probe = small_probes.probe("gpt")
    return replace(probe, optimizer=kind(probe.model.parameters(), **settings), shared={})


def test_a_weight_without_gradient_is_left_at_the_exponential() -> None:
    probe = with_optimizer(torch.optim.AdamW, lr=0.01, weight_decay=0.5)
    assert probe.optimizer is not None
    parameter = dict(probe.model.named_parameters())["blocks.0.attention.query.weight"]
    before = parameter.detach().clone()
    for _ in range(100):
        for each in probe.model.parameters():
            each.grad = torch.zeros_like(each)
        probe.optimizer.step()
    reading = DecayFolds().measure(probe)
    folds = reading.at(block="L0.Q")
    assert folds == pytest.approx(0.5)
    assert float(parameter.detach().norm() / before.norm()) == pytest.approx(math.exp(-folds), rel=0.01)
    assert reading.facts["steps"] == 100


@pytest.mark.parametrize(
    ("kind", "settings", "step", "status"),
    [
        (torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.1}, None, NOT_APPLICABLE),
        (torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.1}, 50, OK),
        (torch.optim.Adam, {"lr": 0.1, "weight_decay": 0.1}, 50, NOT_APPLICABLE),
        (torch.optim.Adam, {"lr": 0.1, "weight_decay": 0.0}, 50, OK),
        (torch.optim.AdamW, {"lr": 0.1}, 50, OK),
    ],
)
def test_it_says_when_it_does_not_know(kind: Any, settings: Any, step: int | None, status: str) -> None:
    reading = DecayFolds().measure(replace(with_optimizer(kind, **settings), step=step))
    assert reading.status == status
    assert (reading.status == OK) == (not reading.note)
    if status == OK:
        assert reading.at(block="L0.K") == pytest.approx(0.1 * settings.get("weight_decay", 0.01) * 50)


def test_without_an_optimiser_there_is_nothing_to_read() -> None:
    assert DecayFolds().measure(replace(small_probes.probe("gpt"), optimizer=None)).status == NOT_APPLICABLE
