"""Planted mistakes: what moves queries and keys apart, and what takes their rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from attnscope import catalogue
from attnscope.case import Case
from attnscope.start import start_of
from attnscope.tasks import Task, learn
from planting.moment import steps_of
from planting.planted import Planted, Truth
from planting.small import FRESH, TASKS, small_case


def plain_descent(model: nn.Module) -> torch.optim.Optimizer:
    """Gradient descent without momentum."""
    return torch.optim.SGD(model.parameters(), lr=0.1)


def key_of(model: nn.Module, layer: int) -> Any:
    """The key projection of a layer of one of the small models."""
    return model.get_submodule(f"blocks.{layer}.attention.key")


def shrunk(model: nn.Module) -> None:
    """A penalty of one's own: the first layer's keys, and they alone, are made smaller after each step."""
    with torch.no_grad():
        key_of(model, 0).weight.mul_(0.998)


def noisy(model: nn.Module) -> None:
    """Noise on the weights, added to the second layer's keys alone."""
    with torch.no_grad():
        weight = key_of(model, 1).weight
        weight.add_(5e-3 * torch.randn(weight.shape))


def between_steps(model: str, layer: int, change: Callable[[nn.Module], None]) -> Planted:
    """Weights are written to between the steps of plain descent; the start was kept."""

    def make(seed: int) -> tuple[Case, Truth]:
        task: Task = catalogue.load("tasks", TASKS[model])(seed=seed)
        torch.manual_seed(seed)
        built = catalogue.load("models", model)(**task.sizes)
        start, optimizer = start_of(built), plain_descent(built)
        for number in range(steps_of(200)):
            learn(built, task, steps=1, first=number, optimizer=optimizer)
            change(built)
        batches = [task.batch(FRESH + number, 16) for number in range(2)]
        case = Case(built, batches, optimizer=optimizer, expects=task.expects, name=model, start=start)
        return case, Truth(("balance_moves",), (f"L{layer}.K", f"L{layer}.Q"))

    return Planted("balance moves", f"keys {change.__name__} between steps", model, make)


def halved_after_backward(model: str, layer: int) -> Planted:
    """A hook halves the key's gradient when it has been accumulated."""

    def halve(parameter: torch.Tensor) -> None:
        if parameter.grad is not None:
            parameter.grad.mul_(0.5)

    def make(seed: int) -> tuple[Case, Truth]:
        def prepare(built: nn.Module) -> None:
            key_of(built, layer).weight.register_post_accumulate_grad_hook(halve)

        case, _ = small_case(model, seed=seed, prepare=prepare, optimizer=plain_descent)
        return case, Truth(("foreign_update",), (f"L{layer}*.K", f"L{layer}*.Q"))

    return Planted("foreign update", "key gradient halved in a hook", model, make)


def one_row(model: str, layer: int, heads: tuple[int, ...]) -> Planted:
    """Queries and keys of some heads begin with one row, repeated, and never leave it."""

    def make(seed: int) -> tuple[Case, Truth]:
        def prepare(built: Any) -> None:
            attention = built.get_submodule(f"blocks.{layer}.attention")
            with torch.no_grad():
                for head in heads:
                    rows = slice(head * attention.d_head, (head + 1) * attention.d_head)
                    for projection in (attention.query, attention.key):
                        projection.weight[rows] = projection.weight[rows][:1].clone()
                        projection.bias[rows] = projection.bias[rows][:1].clone()

        case, _ = small_case(model, seed=seed, prepare=prepare)
        return case, Truth(("head_rank_collapsed",), (f"L{layer}*.Q", f"L{layer}*.K"))

    return Planted("head rank collapsed", f"one row in {len(heads)} heads", model, make)


def too_much_decay(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW with a decay of 5."""
    return torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=5.0)


def decay_inside_adam(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW's usual decay, given to Adam."""
    return torch.optim.Adam(model.parameters(), lr=3e-3, weight_decay=0.01)


def eaten(model: str, optimizer: Callable[[nn.Module], torch.optim.Optimizer]) -> Planted:
    """A model trained under weight decay that wins."""

    def make(seed: int) -> tuple[Case, Truth]:
        case, _ = small_case(model, seed=seed, optimizer=optimizer, steps=400)
        return case, Truth(("decay_eats_rank",), ("L*.Q", "L*.K"))

    return Planted("decay eats the rank", optimizer.__name__.replace("_", " "), model, make)


PLANTED = (
    between_steps("gpt", 0, shrunk),
    between_steps("encoder", 0, shrunk),
    between_steps("gpt", 1, noisy),
    halved_after_backward("gpt", 1),
    halved_after_backward("encoder", 0),
    halved_after_backward("rotary_decoder", 0),
    one_row("gpt", 1, (0,)),
    one_row("encoder", 0, (0, 1, 2, 3)),
    eaten("gpt", too_much_decay),
    eaten("encoder", too_much_decay),
    eaten("vit", decay_inside_adam),
    eaten("encoder", decay_inside_adam),
)
