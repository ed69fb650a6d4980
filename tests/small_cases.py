"""Untrained cases of the small models, each the same at every call, and a few steps of training for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from attnscope import catalogue
from attnscope.case import Case, default_forward, default_loss
from attnscope.faults import Fault

TASKS = {
    "encoder": "topic_and_place", "gpt": "copying", "han": "keyed_documents", "conv3d_attention": "moving_shapes",
}


def untrained(model: str) -> Case:
    task = catalogue.load("tasks", TASKS[model])()
    torch.manual_seed(0)
    built = catalogue.load("models", model)(**task.sizes)
    optimizer = torch.optim.AdamW(built.parameters(), lr=3e-3)
    return Case(built, [task.batch(900, 8)], optimizer=optimizer, expects=task.expects, name=model)


def loss_of(case: Case) -> Tensor:
    batch = next(iter(case.batches))
    return (case.loss or default_loss)((case.forward or default_forward)(case.model, batch), batch)


def output_of(case: Case) -> Tensor:
    case.model.eval()
    with torch.no_grad():
        output: Tensor = (case.forward or default_forward)(case.model, next(iter(case.batches)))
    return output


def gradients_of(case: Case) -> dict[str, Tensor | None]:
    case.model.eval()
    named = dict(case.model.named_parameters())
    found = torch.autograd.grad(loss_of(case), list(named.values()), allow_unused=True)
    return dict(zip(named, found, strict=True))


def train(case: Case, steps: int = 3) -> None:
    assert case.optimizer is not None
    case.model.train()
    for number in range(steps):
        torch.manual_seed(number)
        case.optimizer.zero_grad()
        loss_of(case).backward()
        case.optimizer.step()


def planted(name: str, model: str, steps: int = 3, **settings: Any) -> tuple[Case, Case, Fault]:
    """A case with the fault after some steps, the healthy one after as many, and the fault."""
    fault: Fault = catalogue.load("faults", name)(**settings)
    healthy = untrained(model)
    case = fault.inject(healthy)
    train(case, steps)
    train(healthy, steps)
    return case, healthy, fault
