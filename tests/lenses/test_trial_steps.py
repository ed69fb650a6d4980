"""Steps on trial: the losses of a quadratic are the ones that its recursion gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from attnscope.anatomy.trace import trace
from attnscope.lenses.trial_steps import TrialSteps
from attnscope.probe import Probe

SHARPNESS = 4.0


class Parabola(nn.Module):
    """w * x, with a loss of SHARPNESS / 2 * w^2 at x = 1: descent multiplies w by 1 - SHARPNESS * lr."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
        self.noise = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.w * x + 0.0 * self.noise(x)


def loss(output: Any, batch: Any) -> torch.Tensor:
    return SHARPNESS / 2 * (output**2).sum()


def probe_with(rate: float) -> Probe:
    model, batch = Parabola(), (torch.ones(1, dtype=torch.float64),)

    def forward(model: nn.Module, batch: Any) -> Any:
        return model(batch[0])

    anatomy = trace(model, batch, forward)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    return Probe(model, (batch,), anatomy, forward=forward, loss=loss, optimizer=optimizer)


@pytest.mark.parametrize("rate", [0.1, 0.49, 0.51, 2.0])
def test_the_losses_of_a_parabola(rate: float) -> None:
    probe = probe_with(rate)
    reading = TrialSteps(steps=6).measure(probe)
    expected = SHARPNESS / 2 * (1 - SHARPNESS * rate) ** (2 * np.arange(7))
    assert reading.values == pytest.approx(expected, rel=1e-12)
    assert reading.facts["rose"] == (0.0 if rate < 2 / SHARPNESS else 1.0)
    assert probe.model.w.item() == 1.0
    assert probe.model.w.grad is None
    assert not probe.optimizer.state


def test_numbers_that_overflow_count_as_a_rise() -> None:
    reading = TrialSteps(steps=8).measure(probe_with(1e60))
    assert reading.facts["rose"] == 1.0
    assert not reading.facts["finite"]
    assert np.isnan(reading.values[-1])
