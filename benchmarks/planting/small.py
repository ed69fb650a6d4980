"""The package's small models, with an edit of their source, on their tasks: cases to plant mistakes in."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from attnscope import catalogue
from attnscope.case import Case
from attnscope.faults import copy_of
from attnscope.tasks import Task, learn
from planting.editing import Edit, edited
from planting.moment import steps_of, training_share
from planting.planted import Planted, Truth, loss_of

TASKS = {
    "gpt": "copying",
    "rotary_decoder": "copying",
    "encoder": "topic_and_place",
    "han": "keyed_documents",
    "conv3d_attention": "moving_shapes",
    "vit": "placed_shapes",
}
FRESH = 500_000  # numbers of batches that no model is trained on

Relabel = Callable[[Any, Tensor], tuple[Any, Tensor]]


class Relabelled(Task):
    """A task whose batches are changed on the way: for mistakes in the data."""

    def __init__(self, task: Task, change: Relabel) -> None:
        object.__setattr__(self, "task", task)
        object.__setattr__(self, "change", change)
        object.__setattr__(self, "steps", task.steps)

    def batch(self, number: int, n_examples: int = 32) -> tuple[Any, Tensor]:
        """The task's batch, changed."""
        return self.change(*self.task.batch(number, n_examples))


def small_case(
    model: str,
    *edits: Edit,
    seed: int = 0,
    steps: int | None = None,
    sizes: Mapping[str, Any] | None = None,
    change: Relabel | None = None,
    prepare: Callable[[nn.Module], None] | None = None,
    lr: float = 3e-3,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
    n_batches: int = 2,
) -> tuple[Case, tuple[Any, ...]]:
    """A case around an (edited) small model, trained on its task.

    Args:
        model: its name in `attnscope.models`.
        edits: of its source.
        seed: of initialisation and data.
        steps: of training; 0 leaves it untrained, None is the task's number.
        sizes: constructor arguments beside the task's.
        change: of every batch, in training and in the case.
        prepare: what is done to the model before training.
        lr: learning rate.
        optimizer: made for the model; AdamW when None.
        n_batches: batches in the case.

    Returns:
        The case, and the edited lines.
    """
    module, lines = edited(f"attnscope.models.{model}", *edits)
    task: Task = catalogue.load("tasks", TASKS[model])(seed=seed)
    expects = task.expects
    torch.manual_seed(seed)
    built = getattr(module, catalogue.class_name(model))(**{**task.sizes, **(sizes or {})})
    if prepare is not None:
        prepare(built)
    source = task if change is None else Relabelled(task, change)
    used = optimizer(built) if optimizer is not None else None
    used = learn(built, source, steps=steps_of(task.steps if steps is None else steps), lr=lr, optimizer=used)
    batches = [source.batch(FRESH + number, 16) for number in range(n_batches)]
    return Case(built, batches, optimizer=used, expects=expects, name=model), lines


@functools.cache
def _healthy(model: str, seed: int, steps: int | None, share: float) -> Case:
    return small_case(model, seed=seed, steps=steps)[0]


def healthy(model: str, seed: int = 0, steps: int | None = None) -> Case:
    """A copy of the healthy trained model, which is trained only once."""
    return copy_of(_healthy(model, seed, steps, training_share()))


def in_code(
    kind: str,
    variant: str,
    model: str,
    *edits: Edit,
    rules: tuple[str, ...],
    places: tuple[str, ...],
    effort: str = "standard",
    **settings: Any,
) -> Planted:
    """A mistake that is an edit of a small model's source."""

    def make(seed: int) -> tuple[Case, Truth]:
        case, lines = small_case(model, *edits, seed=seed, **settings)
        return case, Truth(rules, places, lines)

    return Planted(kind, variant, model, make, effort)


def by_fault(
    kind: str, fault: str, model: str, *, effort: str = "standard", more_steps: int = 20, **fields: Any
) -> Planted:
    """A mistake from `attnscope.faults`, injected into a trained small model that then trains on with it."""

    def make(seed: int) -> tuple[Case, Truth]:
        case = healthy(model, seed)
        member = catalogue.load("faults", fault)(**fields)
        label = member.label(case)
        injected = member.inject(case)
        task: Task = catalogue.load("tasks", TASKS[model])(seed=seed)
        learn(injected.model, task, steps=steps_of(more_steps), first=task.steps, optimizer=injected.optimizer)
        losses = None if more_steps else (loss_of(case), loss_of(injected))
        return injected, Truth(member.recognised_as, label.places, losses=losses)

    return Planted(kind, fault.replace("_", " "), model, make, effort)
