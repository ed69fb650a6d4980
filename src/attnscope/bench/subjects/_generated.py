"""Generated examples of which one in five is kept for testing, told by its own content."""

from __future__ import annotations

import torch
from torch import Tensor

from attnscope.tasks import Task

HELD_OUT = 1_000_000
ONE_IN = 5


def drawn(task: Task, number: int, size: int, *, held_out: bool) -> tuple[Tensor, Tensor]:
    """A batch whose examples are all of the tested fifth, or all of the rest, so no example is in both."""
    wanted = 2 * ONE_IN * size if held_out else 2 * size
    inputs, targets = task.batch(number + HELD_OUT * held_out, wanted)
    rows = torch.nonzero(_tested(inputs) == held_out)[:size, 0]
    if len(rows) < size:  # pragma: no cover  # twice as many are drawn as are needed on average
        raise AssertionError(f"batch {number} of {task} holds only {len(rows)} examples of the wanted part")
    return inputs[rows], targets[rows]


def _tested(inputs: Tensor) -> Tensor:
    """Whether each example belongs to the tested fifth: a checksum of its tokens, which is the same every time."""
    tokens = inputs.flatten(1)
    weights = 7 * torch.arange(tokens.shape[1]) ** 2 + 3
    return (tokens * weights).sum(1) % ONE_IN == 0
