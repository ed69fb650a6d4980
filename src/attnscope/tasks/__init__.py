"""Tasks: the data that the small models learn, generated from a seed, one per file.

A task is a frozen dataclass; its fields are its settings. `batch(number)` is a pure function of the settings
and the number, so a run can be repeated and two runs can be given the same data. Each task names the model it
was made for and the sizes that suit it, and states the accuracy that a healthy model reaches in `steps` steps
of `learn`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

__all__ = ["Task", "accuracy_of", "generator", "learn"]


@dataclass(frozen=True)
class Task(ABC):
    """Generated data with known answers.

    Class facts:
        model: the member of `models` that it was made for.
        sizes: that model's constructor arguments.
        expects: what a `Case` should be told.
        steps: training steps (of 32 examples, AdamW at 3e-3) after which a healthy model has learnt it.
        healthy_accuracy: what it then reaches at least, on fresh data, whatever the seed.
        chance: the accuracy of a guess.
    """

    seed: int = 0
    model: ClassVar[str]
    sizes: ClassVar[Mapping[str, int]]
    expects: ClassVar[Mapping[str, Any]] = {}
    steps: ClassVar[int]
    healthy_accuracy: ClassVar[float]
    chance: ClassVar[float]

    @abstractmethod
    def batch(self, number: int, n_examples: int = 32) -> tuple[Any, Tensor]:
        """The `number`-th batch: inputs (what the model takes) and targets."""

    def scored(self, targets: Tensor) -> Tensor:
        """Which targets count for accuracy: all, unless a task says otherwise."""
        return torch.ones_like(targets, dtype=torch.bool)


def generator(seed: int, number: int) -> torch.Generator:
    """The source of randomness of one batch of one task."""
    return torch.Generator().manual_seed(1_000_003 * (seed + 1) + number)


def forward_of(model: nn.Module, inputs: Any) -> Tensor:
    """The logits: a mapping is passed as keywords; an output object gives its `.logits`."""
    output = model(**inputs) if isinstance(inputs, Mapping) else model(inputs)
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"{type(model).__name__} returned {type(output).__name__}; expected logits or an output with them"
        )
    return logits


def learn(
    model: nn.Module, task: Task, *, steps: int | None = None, lr: float = 3e-3, n_examples: int = 32,
    optimizer: torch.optim.Optimizer | None = None, warmup: int = 10, first: int = 0,
) -> torch.optim.Optimizer:
    """Trains a model on a task with cross-entropy, in place, and leaves it in train mode.

    Args:
        model: takes the task's inputs and returns logits.
        task: gives batches `first`, `first + 1`, ...
        steps: how many; the task's own number when None.
        lr: peak rate, reached after `warmup` steps and then held.
        n_examples: per batch.
        optimizer: AdamW over all trainable parameters when None.
        warmup: steps of linear warm-up (none when an optimiser is given: its rates are its own).
        first: number of the first batch.

    Returns:
        the optimiser, with its state, so that training can go on.
    """
    own = optimizer is None
    if optimizer is None:
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trainable, lr=lr, weight_decay=0.01)
    model.train()
    for step in range(task.steps if steps is None else steps):
        inputs, targets = task.batch(first + step, n_examples)
        if own:
            for group in optimizer.param_groups:
                group["lr"] = lr * min(1.0, (first + step + 1) / max(warmup, 1))
        logits = forward_of(model, inputs)
        loss = nn.functional.cross_entropy(logits.flatten(0, -2), targets.flatten())
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return optimizer


@torch.no_grad()
def accuracy_of(model: nn.Module, task: Task, *, first: int = 1_000_000, n_batches: int = 8) -> float:
    """The share of scored targets that the model gets right on fresh batches, in eval mode."""
    was_training = model.training
    model.eval()
    right = total = 0
    for number in range(first, first + n_batches):
        inputs, targets = task.batch(number, 64)
        counted = task.scored(targets)
        right += int(((forward_of(model, inputs).argmax(-1) == targets) & counted).sum())
        total += int(counted.sum())
    model.train(was_training)
    return right / total
