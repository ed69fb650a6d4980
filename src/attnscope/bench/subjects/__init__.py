"""Subjects: one model on one task each, small enough to be trained hundreds of times. One per file.

A subject is a frozen dataclass; `seed` sets the initialisation and the order of the data. Everything it gives is a
pure function of its fields, so that a run can be repeated and two runs can be given the same data.

Its docstring states, after the first line: **Task** (the data, where from, the classes, chance), **Model** (sizes,
parameters), **Healthy** (what it reaches on held-out data over which seeds, by which command, and what the field
reports for such a size, with the source).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from attnscope.case import Case, default_forward, default_loss

__all__ = ["Judged", "Subject"]

STEPS_OF_A_SEED = 1_000_003


@dataclass(frozen=True)
class Judged:
    """How well a model does on held-out data.

    Attributes:
        quality: the share of right answers.
        loss: mean cross-entropy of the answers (nats).
    """

    quality: float
    loss: float


@dataclass(frozen=True)
class Subject(ABC):
    """One model on one task.

    Class facts:
        model: which model it is, such as `han`; subjects of the same model differ in task.
        task: which task.
        steps: training steps after which a healthy model has learnt the task.
        clip: largest norm of the gradient in a step.
        warmup: steps over which the learning rates rise to what the optimiser says.
        n_held_out: held-out batches that `quality` is measured on.
        healthy_quality: what `quality` is at least for a healthy model, whatever the seed.
        chance: what a guess reaches.
        higher_is_better: whether a larger `quality` is better.
    """

    seed: int = 0
    model: ClassVar[str]
    task: ClassVar[str]
    steps: ClassVar[int]
    clip: ClassVar[float] = 1.0
    warmup: ClassVar[int] = 0
    n_held_out: ClassVar[int] = 4
    healthy_quality: ClassVar[float]
    chance: ClassVar[float]
    higher_is_better: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """The subject's file name."""
        return type(self).__module__.rpartition(".")[2]

    def unavailable(self) -> str:
        """Empty when everything it needs is installed, else what to install."""
        return ""

    @abstractmethod
    def case(self) -> Case:
        """The untrained model with its optimiser, its expectations, and four batches that it never trains on."""

    @abstractmethod
    def batch(self, number: int) -> Any:
        """The `number`-th batch of training."""

    @abstractmethod
    def held_out(self, number: int) -> Any:
        """The `number`-th batch of testing; no training batch holds any of its examples."""

    def trained(self, case: Case, *, first: int = 0, steps: int | None = None) -> list[float]:
        """Trains a case of this subject in place, with its own optimiser; leaves it in train mode.

        Args:
            case: from `case`, perhaps with a fault in it.
            first: number of the first batch.
            steps: how many; all that are left when None.

        Returns:
            the loss of every step.
        """
        assert case.optimizer is not None  # a subject's case has one
        forward, loss_of = case.forward or default_forward, case.loss or default_loss
        case.model.train()
        losses = []
        with torch.random.fork_rng(devices=[]):
            for number in range(first, self.steps if steps is None else first + steps):
                torch.manual_seed(STEPS_OF_A_SEED * self.seed + number)  # dropout is the same in every repetition
                batch = self.batch(number)
                loss = loss_of(forward(case.model, batch), batch)
                case.optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(case.model.parameters(), self.clip)
                self._step(case.optimizer, number)
                losses.append(float(loss.detach()))
        case.optimizer.zero_grad(set_to_none=True)
        return losses

    def _step(self, optimizer: torch.optim.Optimizer, number: int) -> None:
        """A step with the rate of this moment; between steps the optimiser says the rate of after the warm-up."""
        share = min(1.0, (number + 1) / max(self.warmup, 1))
        rates = [(group, group["lr"], group["lr"] * share) for group in optimizer.param_groups]
        for group, _, lowered in rates:
            group["lr"] = lowered
        optimizer.step()
        for group, whole, lowered in rates:
            if group["lr"] == lowered:  # else the step itself set a rate, which stays
                group["lr"] = whole

    def quality(self, case: Case) -> float:
        """The share of held-out answers that are right, in eval mode; `answers` tells which count."""
        return self.judged(case).quality

    @torch.no_grad()
    def judged(self, case: Case) -> Judged:
        """Share of right held-out answers and their cross-entropy, in eval mode; `answers` tells which count."""
        forward = case.forward or default_forward
        was_training = case.model.training
        case.model.eval()
        right = total = 0
        surprise = 0.0
        for number in range(self.n_held_out):
            batch = self.held_out(number)
            output = forward(case.model, batch)
            logits = output if isinstance(output, torch.Tensor) else output.logits
            targets, counted = self.answers(batch)
            logits, targets = logits[counted], targets[counted]
            right += int((logits.argmax(-1) == targets).sum())
            surprise += float(torch.nn.functional.cross_entropy(logits.double(), targets, reduction="sum"))
            total += len(targets)
        case.model.train(was_training)
        return Judged(right / total, surprise / total)

    def answers(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """The targets of a batch, and which of them count."""
        targets = batch["labels"] if isinstance(batch, dict) else batch[1]
        return targets, torch.ones_like(targets, dtype=torch.bool)
