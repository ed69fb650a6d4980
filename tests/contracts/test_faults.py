"""Every fault: strength 0 changes nothing, the original stays as it was, and a fault is what its label says."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attnscope import catalogue
from attnscope.case import Case, default_forward, default_loss
from attnscope.faults import Fault, FaultError, anatomy_of, copy_of
from attnscope.findings import Label
from attnscope.tasks import learn

FAULTS = catalogue.names("faults")
MODELS = {
    "encoder": "topic_and_place", "gpt": "copying", "han": "keyed_documents", "conv3d_attention": "moving_shapes",
}  # a fault is tried on the first of these that it applies to
WHOLE = {"data", "loss", "model"}  # places that are no block and no site


@functools.cache
def _trained(model: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    task = catalogue.load("tasks", MODELS[model])()
    torch.manual_seed(0)
    built = catalogue.load("models", model)(**task.sizes)
    return built, learn(built, task, steps=15)


def case_of(model: str) -> Case:
    built, optimizer = copy.deepcopy(_trained(model))
    task = catalogue.load("tasks", MODELS[model])()
    return Case(built, [task.batch(900, 8)], optimizer=optimizer, expects=task.expects, name=model)


@functools.cache
def model_for(name: str) -> str:
    fault: Fault = catalogue.load("faults", name)()
    reasons = {}
    for model in MODELS:
        reasons[model] = fault.applies_to(case_of(model))
        if not reasons[model]:
            return model
    raise AssertionError(f"{name} applies to none of the models: {reasons}")


def loss_and_gradients(case: Case, *, train: bool = False) -> tuple[Tensor, list[Tensor | None]]:
    case.model.train(train)
    torch.manual_seed(7)
    batch = next(iter(case.batches))
    loss = (case.loss or default_loss)((case.forward or default_forward)(case.model, batch), batch)
    parameters = [parameter for parameter in case.model.parameters() if parameter.requires_grad]
    return loss.detach(), list(torch.autograd.grad(loss, parameters, allow_unused=True))


def step(case: Case) -> None:
    assert case.optimizer is not None
    case.model.train()
    batch = next(iter(case.batches))
    loss = (case.loss or default_loss)((case.forward or default_forward)(case.model, batch), batch)
    case.optimizer.zero_grad()
    loss.backward()
    case.optimizer.step()


def trained(case: Case) -> list[Tensor]:
    """What three steps make of the case: its parameters, buffers and the loss in eval mode."""
    for number in range(3):
        torch.manual_seed(number)
        step(case)
    numbers = [*case.model.state_dict().values(), loss_and_gradients(case)[0], *decoded(case)]
    return [each.nan_to_num(7.0) for each in numbers]


@torch.no_grad()
def decoded(case: Case) -> list[Tensor]:
    """The logits token by token with the key/value cache, when the model has one."""
    if "past_key_values" not in inspect.signature(case.model.forward).parameters:
        return []
    case.model.eval()
    steps, past = [], None
    for tokens in next(iter(case.batches))[0].split(1, dim=1):
        logits, past = case.model(tokens, past_key_values=past, use_cache=True)
        steps.append(logits)
    return steps


def state(case: Case) -> dict[str, Any]:
    assert case.optimizer is not None
    return copy.deepcopy(
        {
            "model": case.model.state_dict(),
            "class": type(case.model),
            "groups": [
                {**group, "params": [id(each) for each in group["params"]]} for group in case.optimizer.param_groups
            ],
            "batch": next(iter(case.batches)),
        }
    )


def same(one: Any, two: Any) -> bool:
    if isinstance(one, Tensor):
        if one.shape != two.shape:
            return False
        return bool(((one == two) | ((one != one) & (two != two))).all())  # NaN is the same as NaN
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    return bool(one == two)


@pytest.mark.parametrize("name", FAULTS)
def test_strength_zero_is_the_identity(name: str) -> None:
    case = case_of(model_for(name))
    injected = catalogue.load("faults", name)(strength=0.0).inject(case)
    for train in (False, True):
        loss, gradients = loss_and_gradients(case, train=train)
        again, gradients_again = loss_and_gradients(injected, train=train)
        assert torch.equal(loss, again)
        assert same(gradients, gradients_again)
    step(case)
    step(injected)
    assert same(dict(case.model.state_dict()), dict(injected.model.state_dict()))


@pytest.mark.parametrize("name", FAULTS)
def test_the_original_stays_as_it_was(name: str) -> None:
    case = case_of(model_for(name))
    before = state(case)
    injected = catalogue.load("faults", name)().inject(case)
    step(injected)
    assert same(before, state(case))
    owned = {id(parameter) for parameter in case.model.parameters()}
    assert not owned & {id(parameter) for parameter in injected.model.parameters()}


@pytest.mark.parametrize("name", FAULTS)
def test_full_strength_changes_something(name: str) -> None:
    case = case_of(model_for(name))
    injected = catalogue.load("faults", name)().inject(case)
    loss, gradients = loss_and_gradients(case)
    loss_after, gradients_after = loss_and_gradients(injected)
    loss_train, _ = loss_and_gradients(case, train=True)
    loss_train_after, _ = loss_and_gradients(injected, train=True)
    rates = [(group["lr"], len(group["params"])) for group in case.optimizer.param_groups]  # type: ignore[union-attr]
    rates_after = [(group["lr"], len(group["params"])) for group in injected.optimizer.param_groups]  # type: ignore[union-attr]
    assert (
        not torch.equal(loss, loss_after)
        or not torch.equal(loss_train, loss_train_after)
        or not same(gradients, gradients_after)
        or rates != rates_after
        or not same(trained(case), trained(injected))
    )


@pytest.mark.parametrize("name", FAULTS)
def test_a_copy_has_the_same_mistake_and_is_apart(name: str) -> None:
    injected = catalogue.load("faults", name)().inject(case_of(model_for(name)))
    apart = copy_of(injected)
    before = state(apart)
    states = trained(injected)
    assert same(before, state(apart))
    assert same(states, trained(apart))


@pytest.mark.parametrize("name", FAULTS)
def test_severities_are_strengths_that_can_be_injected(name: str) -> None:
    severities = catalogue.load("faults", name).severities
    assert 1 <= len(severities) <= 3
    assert len(set(severities)) == len(severities)
    assert all(severities)
    for strength in severities:
        catalogue.load("faults", name)(strength=strength).inject(case_of(model_for(name)))


@pytest.mark.parametrize("name", FAULTS)
def test_the_label_names_places_that_exist(name: str) -> None:
    fault: Fault = catalogue.load("faults", name)()
    case = case_of(model_for(name))
    label = fault.label(case)
    assert isinstance(label, Label)
    assert label.kind == name
    assert label.visibility in set("CUAIB")
    anatomy = anatomy_of(case)
    blocks = {block.name for block in (*anatomy.blocks, *anatomy.head_blocks())}
    first = anatomy.attentions[0]
    assert label.places[0] in blocks | WHOLE or label.places[0].startswith(f"{first.name}.")


@pytest.mark.parametrize("name", FAULTS)
def test_form(name: str) -> None:
    member = catalogue.load("faults", name)
    assert issubclass(member, Fault)
    assert dataclasses.is_dataclass(member)
    assert member.__dataclass_params__.frozen  # type: ignore[attr-defined]
    for section in ("**Injects**", "**Strength**", "**Visible as**"):
        assert section in (member.__doc__ or "")


@pytest.mark.parametrize("name", FAULTS)
def test_a_recognising_rule_exists(name: str) -> None:
    known = set(catalogue.names("rules"))
    assert set(catalogue.load("faults", name).recognised_as) <= known


def test_a_layer_that_is_not_there_is_said() -> None:
    case = case_of("encoder")
    with pytest.raises(FaultError, match="2 attentions"):
        catalogue.load("faults", "zeroed_value")(layer=5).inject(case)


def test_a_frozen_key_needs_an_optimiser() -> None:
    case = case_of("encoder")
    case.optimizer = None
    with pytest.raises(FaultError, match="no optimiser"):
        catalogue.load("faults", "frozen_key")().inject(case)


@pytest.mark.parametrize("name", ["zeroed_value", "zeroed_query", "zeroed_output", "duplicated_heads", "frozen_key"])
def test_what_must_stay_wrong_stays_wrong_while_training(name: str) -> None:
    case = case_of("encoder")
    fault = catalogue.load("faults", name)(layer=1)
    injected = fault.inject(case)
    block = {"zeroed_value": "value", "zeroed_query": "query", "zeroed_output": "output", "frozen_key": "key"}.get(name)
    before = injected.model.get_parameter("blocks.1.attention.key.weight").detach().clone()
    for _ in range(3):
        step(injected)
    attention: Any = injected.model.get_submodule("blocks.1.attention")
    if name == "frozen_key":
        assert torch.equal(attention.key.weight, before)
        assert not torch.equal(
            injected.model.get_parameter("blocks.0.attention.key.weight"),
            case.model.get_parameter("blocks.0.attention.key.weight"),
        )
    elif block is not None:
        assert not getattr(attention, block).weight.any()
    else:
        heads = attention.query.weight.view(4, 8, 32)
        assert all(torch.equal(heads[0], heads[head]) for head in range(1, 4))


@pytest.mark.parametrize(("name", "model", "why"), [
    ("padding_attended", "gpt", "no key is padding"),
    ("padding_mask_inverted", "gpt", "no key is padding"),
    ("future_leak", "encoder", "no causal mask"),
    ("labels_unshifted", "encoder", "no labels for each token"),
])
def test_a_fault_that_would_change_nothing_is_refused(name: str, model: str, why: str) -> None:
    case = case_of(model)
    fault = catalogue.load("faults", name)()
    assert why in fault.applies_to(case)
    with pytest.raises(FaultError, match=why):
        fault.inject(case)


def test_a_model_without_dot_products_is_told_apart() -> None:
    task = catalogue.load("tasks", "keyed_documents")()
    torch.manual_seed(0)
    case = Case(catalogue.load("models", "han")(**task.sizes), [task.batch(0, 8)], expects=task.expects)
    assert "scale" in catalogue.load("faults", "missing_scale")().applies_to(case)
    assert not catalogue.load("faults", "padding_attended")().applies_to(case)
    assert "value" in catalogue.load("faults", "zeroed_value")().applies_to(case)
