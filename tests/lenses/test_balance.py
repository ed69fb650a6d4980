"""The balance of queries and keys obeys its law over real trainings, and only where there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from attnscope import catalogue
from attnscope.anatomy.trace import trace
from attnscope.case import Case, default_loss
from attnscope.probe import Probe
from attnscope.readings import NOT_APPLICABLE, OK, Reading
from attnscope.tasks import Task
from attnscope.training import train

MODELS = {"gpt": "copying", "rotary_decoder": "copying", "encoder": "topic_and_place"}
Make = Callable[[nn.Module], torch.optim.Optimizer]


def sgd(rate: float = 0.1, decay: float = 0.0, **more: Any) -> Make:
    return lambda model: torch.optim.SGD(model.parameters(), lr=rate, weight_decay=decay, **more)


def made(name: str, optimizer: Make) -> tuple[Case, Task]:
    task: Task = catalogue.load("tasks", MODELS[name])(seed=0)
    torch.manual_seed(0)
    model = catalogue.load("models", name)(**task.sizes).double()
    return Case(model, [task.batch(500_000, 16)], optimizer=optimizer(model), expects=task.expects), task


def step_of(case: Case) -> Reading:
    """`balance_step` at this moment."""
    anatomy = trace(case.model, next(iter(case.batches)), case.forward)
    probe = Probe(case.model, tuple(case.batches), anatomy, loss=default_loss, optimizer=case.optimizer)
    return catalogue.load("lenses", "balance_step")().measure(probe)


def halved(parameter: torch.Tensor) -> None:
    assert parameter.grad is not None
    parameter.grad.mul_(0.5)


def trained(
    name: str, optimizer: Make, steps: int, *, between: Callable[[nn.Module], None] | None = None
) -> dict[str, Reading]:
    """The readings after some steps of training on one batch, with something done between steps."""
    case, task = made(name, optimizer)
    batch = task.batch(0, 32)

    def batches() -> Iterator[Any]:
        for number in range(steps):
            if number and between is not None:
                between(case.model)
            yield batch

    run = train(case, steps, lenses=("balance_step", "balance_drift"), every=steps, batches=batches())
    return dict(run.at(steps))


@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("name", MODELS)
def test_a_step_moves_the_balance_exactly_as_predicted(name: str, decay: float) -> None:
    case, _ = made(name, sgd(0.3, decay))
    reading = step_of(case)
    assert reading.status == OK
    assert np.isfinite(reading.values).all()
    assert reading.values.max() < 1e-9
    assert reading.facts["violated"] == []


def test_grouped_keys_and_rotations_keep_the_law_of_their_group() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=11, num_hidden_layers=1, max_position_embeddings=16, **sizes)
    model = LlamaForCausalLM(config).double()
    tokens = torch.randint(1, 11, (4, 6))
    batch = {"input_ids": tokens, "labels": tokens, "use_cache": False}
    case = Case(model, [batch], optimizer=torch.optim.SGD(model.parameters(), lr=0.3))
    reading = step_of(case)
    assert reading.values.shape == (1, 2)
    assert reading.values.max() < 1e-9
    model.model.layers[0].self_attn.k_proj.weight.register_post_accumulate_grad_hook(halved)
    assert step_of(case).facts["violated"] == [[0, 0], [0, 1]]


def test_a_gradient_changed_after_the_backward_pass_breaks_it() -> None:
    case, _ = made("gpt", sgd())
    case.model.blocks[1].attention.key.weight.register_post_accumulate_grad_hook(halved)
    reading = step_of(case)
    assert [layer for layer, _ in reading.facts["violated"]] == [1, 1, 1, 1]
    assert (reading.values[1] > 0.2).all()
    assert reading.values[0].max() < 1e-9


@pytest.mark.parametrize("name", ["gpt", "rotary_decoder"])
def test_over_a_training_the_drift_is_of_the_order_of_the_rate(name: str) -> None:
    """Half the rate and twice the steps: half the drift, as gradient flow keeps the balance."""
    coarse = trained(name, sgd(0.1), 20)["balance_drift"].values
    fine = trained(name, sgd(0.05), 40)["balance_drift"].values
    assert coarse.max() < 0.05
    assert fine / coarse == pytest.approx(0.5, abs=0.1)


def test_under_decay_the_balance_falls_as_the_exponential() -> None:
    rate, decay, steps = 0.1, 0.1, 60
    reading = trained("gpt", sgd(rate, decay), steps)["balance_drift"]
    left = np.array(reading.facts["left"])
    assert left == pytest.approx(np.exp(-2 * rate * decay * steps), rel=0.02)
    assert left == pytest.approx(reading.facts["expected_left"], rel=1e-3)
    assert reading.values.max() < 0.05


def test_a_side_that_something_else_moves_shows() -> None:
    def shrink(model: Any) -> None:
        with torch.no_grad():
            model.blocks[0].attention.key.weight.mul_(0.999)

    reading = trained("gpt", sgd(), 60, between=shrink)["balance_drift"]
    allowance = np.array(reading.facts["allowance"])
    assert (reading.values[0] > 0.5).all()
    assert (reading.values[0] > 10 * allowance[0]).all()
    assert (reading.values[1] < 0.05).all()


def per_role(rate: float, key_rate: float) -> Make:
    def make(model: nn.Module) -> torch.optim.Optimizer:
        keys = [parameter for name, parameter in model.named_parameters() if ".key." in name]
        others = [parameter for name, parameter in model.named_parameters() if ".key." not in name]
        return torch.optim.SGD([{"params": others}, {"params": keys, "lr": key_rate}], lr=rate)

    return make


@pytest.mark.parametrize(
    ("optimizer", "why"),
    [
        (lambda model: torch.optim.AdamW(model.parameters(), lr=1e-3), "AdamW"),
        (sgd(momentum=0.9), "momentum"),
        (per_role(0.1, 0.2), "different rates"),
    ],
)
def test_where_there_is_no_law_nothing_is_claimed(optimizer: Make, why: str) -> None:
    for name, reading in trained("gpt", optimizer, 3).items():
        if name.startswith("balance"):
            assert reading.status == NOT_APPLICABLE
            assert why in reading.note


def test_decay_over_an_unknown_number_of_steps_or_a_schedule_claims_nothing() -> None:
    case, task = made("gpt", sgd(0.1, 0.1))
    run = train(case, 5, lenses=("balance_drift",), every=5, batches=[task.batch(0, 32)])
    assert run.at(5)["balance_drift"].status == OK
    anatomy = trace(case.model, next(iter(case.batches)), case.forward)
    lens = catalogue.load("lenses", "balance_drift")()
    probe = Probe(case.model, tuple(case.batches), anatomy, loss=default_loss, optimizer=case.optimizer,
                  start=case.start)  # fmt: skip
    assert "number of steps is not known" in lens.measure(probe).note
    assert case.optimizer is not None
    torch.optim.lr_scheduler.LinearLR(case.optimizer)
    scheduled = Probe(case.model, tuple(case.batches), anatomy, loss=default_loss, optimizer=case.optimizer,
                      start=case.start, step=5)  # fmt: skip
    assert "schedule" in lens.measure(scheduled).note
