"""Cases around models of other manners and families, healthy or with an edit of their source."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers
from torch import nn

from attnscope import catalogue
from attnscope.case import Case
from attnscope.faults import copy_of
from attnscope.tasks import Task, learn
from planting.editing import Edit, edited
from planting.families import LIBRARY, library_batch
from planting.huggingface import train
from planting.moment import steps_of, training_share
from planting.planted import Planted, Truth, loss_of
from planting.small import FRESH

STYLES = {
    "fused decoder": ("planting.other_styles", "FusedDecoder", "copying"),
    "functional encoder": ("planting.other_styles", "FunctionalEncoder", "topic_and_place"),
    "nn.TransformerEncoder": ("planting.families", "TorchEncoder", "topic_and_place"),
    "nn.MultiheadAttention": ("planting.families", "TorchAttention", "topic_and_place"),
    "gated pooling": ("planting.families", "GatedPooling", "placed_shapes"),
    "learned queries": ("planting.families", "LearnedQueries", "placed_shapes"),
}
# The library's initialisation (a deviation of 0.02) is so narrow that 200 steps do not teach these to look about.
WIDE = {name: {"initializer_range": 0.1} for name in ("bert", "gpt-neo", "llama", "gpt2", "vit")}
Change = Callable[[Any], Any]
Optimise = Callable[[nn.Module], torch.optim.Optimizer]


def style_case(
    name: str, *edits: Edit, seed: int = 0, steps: int = 200, optimizer: Optimise | None = None
) -> tuple[Case, tuple[Any, ...]]:
    """A case around an (edited) model of `STYLES`, trained."""
    module_name, class_name, task_name = STYLES[name]
    module, lines = edited(module_name, *edits)
    task: Task = catalogue.load("tasks", task_name)(seed=seed)
    torch.manual_seed(seed)
    model = getattr(module, class_name)()
    used = learn(model, task, steps=steps_of(steps), optimizer=optimizer(model) if optimizer else None)
    batches = [task.batch(FRESH + number, 16) for number in range(2)]
    return Case(model, batches, optimizer=used, expects=task.expects, name=name), lines


def styled(
    kind: str, variant: str, name: str, *edits: Edit, rules: tuple[str, ...], places: tuple[str, ...], **more: Any
) -> Planted:
    """A mistake in one of the styles."""

    def make(seed: int) -> tuple[Case, Truth]:
        case, lines = style_case(name, *edits, seed=seed, **more)
        return case, Truth(rules, places, lines)

    return Planted(kind, variant, name, make)


def family_case(
    name: str, *edits: Edit, seed: int = 0, steps: int = 200, settings: Mapping[str, Any] | None = None,
    optimizer: Optimise | None = None, change: Change | None = None,
) -> tuple[Case, tuple[Any, ...]]:  # fmt: skip
    """A case around a family of `LIBRARY` from its edited source, trained."""
    model_class, config_class, base, form = LIBRARY[name]
    package = name.replace("-", "_")
    module, lines = edited(f"transformers.models.{package}.modeling_{package}", *edits)
    chosen = {**base, **WIDE.get(name, {}), **(settings or {})}
    config = getattr(transformers, config_class)(**chosen, attn_implementation="eager")
    torch.manual_seed(seed)
    model = getattr(module, model_class)(config)

    def batch(number: int, size: int) -> dict[str, Any]:
        made = library_batch(form, seed, number, size)
        return made if change is None else change(made)

    used = train(model, batch, steps=steps, optimizer=optimizer(model) if optimizer else None)
    return Case(model, [batch(FRESH + number, 16) for number in range(2)], optimizer=used, name=f"hf-{name}"), lines


@functools.cache
def _healthy(name: str, seed: int, share: float) -> Case:
    return family_case(name, seed=seed)[0]


def healthy(name: str, seed: int = 0) -> Case:
    """A copy of the healthy trained model of a family, which is trained only once."""
    return copy_of(_healthy(name, seed, training_share()))


def in_family(
    kind: str, variant: str, name: str, *edits: Edit, rules: tuple[str, ...], places: tuple[str, ...],
    effort: str = "standard", **more: Any,
) -> Planted:  # fmt: skip
    """A mistake in the source of a family."""

    def make(seed: int) -> tuple[Case, Truth]:
        case, lines = family_case(name, *edits, seed=seed, **more)
        return case, Truth(rules, places, lines)

    return Planted(kind, variant, f"hf-{name}", make, effort)


def injected(kind: str, fault: str, name: str, *, more_steps: int = 20, **fields: Any) -> Planted:
    """A fault of the package in a trained model of a family, which trains on with it."""

    def make(seed: int) -> tuple[Case, Truth]:
        case = healthy(name, seed)
        member = catalogue.load("faults", fault)(**fields)
        label = member.label(case)
        wrong = member.inject(case)
        form = LIBRARY[name][3]
        train(
            wrong.model, lambda number, size: library_batch(form, seed, number, size),
            steps=more_steps, optimizer=wrong.optimizer, first=200,
        )  # fmt: skip
        losses = None if more_steps else (loss_of(case), loss_of(wrong))
        return wrong, Truth(member.recognised_as, label.places, losses=losses)

    return Planted(kind, fault.replace("_", " "), f"hf-{name}", make)
