"""Each small model reaches its task's stated accuracy, whatever the seed; data depend on settings alone."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from attnscope import catalogue
from attnscope.tasks import Task, accuracy_of, learn

TASKS = [name for name in catalogue.names("tasks") if issubclass(catalogue.load("tasks", name), Task)]
PAIRS = [(name, catalogue.load("tasks", name).model) for name in TASKS] + [("copying", "rotary_decoder")]


def flat(inputs: Any) -> list[Tensor]:
    return list(inputs.values()) if isinstance(inputs, Mapping) else [inputs]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("task_name", "model_name"), PAIRS)
def test_a_healthy_model_learns_its_task(task_name: str, model_name: str, seed: int) -> None:
    torch.manual_seed(seed)
    task = catalogue.load("tasks", task_name)(seed=seed)
    model = catalogue.load("models", model_name)(**task.sizes)
    before = accuracy_of(model, task)
    learn(model, task)
    after = accuracy_of(model, task)
    assert before < task.healthy_accuracy - 0.2
    assert after >= task.healthy_accuracy


@pytest.mark.parametrize("name", TASKS)
def test_a_batch_is_a_function_of_settings_and_number(name: str) -> None:
    task = catalogue.load("tasks", name)(seed=3)
    torch.manual_seed(0)
    inputs, targets = task.batch(7)
    torch.manual_seed(1)
    again, targets_again = task.batch(7)
    assert torch.equal(targets, targets_again)
    assert all(torch.equal(one, two) for one, two in zip(flat(inputs), flat(again), strict=True))
    other, _ = task.batch(8)
    different_seed, _ = catalogue.load("tasks", name)(seed=4).batch(7)
    assert not torch.equal(flat(inputs)[0], flat(other)[0])
    assert not torch.equal(flat(inputs)[0], flat(different_seed)[0])


@pytest.mark.parametrize("name", TASKS)
def test_no_class_is_the_answer_to_everything(name: str) -> None:
    task = catalogue.load("tasks", name)()
    _, targets = task.batch(0, 512)
    counted = targets[task.scored(targets)]
    most_common = torch.bincount(counted).max().item() / counted.numel()
    assert most_common < task.chance + 0.15
