"""Keeps a change of a model's numbers in place while an optimiser trains it, in copies of the case as well."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from attnscope.case import Case

Change = Callable[[nn.Module, int], None]


@dataclass
class Kept:
    """A change that is made again after every step.

    Attributes:
        model: what it changes.
        change: takes the model and how many steps there were; it finds its parameters in that model by name,
            because a copy of the case calls it with the copied model.
        n_steps: how many steps there were.
    """

    model: nn.Module
    change: Change
    n_steps: int = 0

    def __call__(self, *_: Any) -> None:
        """Called by the optimiser after each step."""
        self.n_steps += 1
        self.make()

    @torch.no_grad()
    def make(self) -> None:
        """Makes the change."""
        self.change(self.model, self.n_steps)


def hold(case: Case, change: Change) -> None:
    """Makes a change now, and again after every step of the case's optimiser or of a copy's."""
    kept = Kept(case.model, change)
    kept.make()
    if case.optimizer is not None:
        case.optimizer.register_step_post_hook(kept)
        _take_hooks_along(case.optimizer)


def _take_hooks_along(optimizer: torch.optim.Optimizer) -> None:
    """Copies of an optimiser leave its hooks behind; from now on those of this one take what is kept along.

    Its class stays what it is, as lenses ask for it.
    """

    def deepcopied(memo: dict[int, Any]) -> torch.optim.Optimizer:
        made = object.__new__(type(optimizer))
        memo[id(optimizer)] = made
        made.__setstate__(copy.deepcopy(optimizer.__getstate__(), memo))
        for hook in optimizer._optimizer_step_post_hooks.values():
            if isinstance(hook, Kept):
                made.register_step_post_hook(copy.deepcopy(hook, memo))
        _take_hooks_along(made)
        return made

    vars(optimizer)["__deepcopy__"] = deepcopied
