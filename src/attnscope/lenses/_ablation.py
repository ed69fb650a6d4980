"""What a change inside the model does to its output and to its loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attnscope.errors import CaseError
from attnscope.lenses._movement import main_output, movement
from attnscope.probe import Probe


@dataclass(frozen=True)
class Untouched:
    """The model's main output and its loss before anything was changed; None where there is none."""

    output: Tensor | None
    loss: float | None


def untouched(probe: Probe, model: nn.Module) -> Untouched:
    """Runs the model as it is."""
    output, loss = _run(probe, model, lambda: probe.run(model, probe.batch))
    return Untouched(output, loss)


def effect_of(
    probe: Probe, model: nn.Module, before: Untouched, run: Callable[[], Any] | None = None
) -> tuple[float, float | None]:
    """The relative movement of the output, and the change of the loss (None without a loss)."""
    output, loss = _run(probe, model, run or (lambda: probe.run(model, probe.batch)))
    moved = float("nan")
    if before.output is not None and output is not None and output.shape == before.output.shape:
        moved = movement(before.output, output)
    return moved, None if before.loss is None or loss is None else loss - before.loss


def _run(probe: Probe, model: nn.Module, run: Callable[[], Any]) -> tuple[Tensor | None, float | None]:
    with torch.no_grad():
        output = run()
        try:
            loss: float | None = float(probe.loss(output, probe.batch))
        except (CaseError, TypeError, ValueError, RuntimeError, KeyError, AttributeError):
            loss = None  # a model without a loss is ablated all the same
        found = main_output(output)
        return None if found is None else found.detach().clone(), loss
