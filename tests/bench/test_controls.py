"""Every control: it leaves the original alone, preserves what it says, and says why where it does not apply."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from attnscope import catalogue
from attnscope.anatomy.observe import observe
from attnscope.bench.controls import ROUNDING, Control
from attnscope.bench.subjects import Subject
from attnscope.case import Case, default_forward, default_loss
from attnscope.faults import FaultError, anatomy_of
from attnscope.testing import check_member

CONTROLS = catalogue.names("controls")
SUBJECTS = ("conv3d_digits", "distilbert_reviews", "gpt_copying", "gpt_reviews", "han_keyed", "vit_digits")
PRESERVING = tuple(name for name in CONTROLS if catalogue.load("controls", name).preserves)
SETTINGS = tuple(name for name in CONTROLS if not catalogue.load("controls", name).after_training)

PRODUCTS = {"conv3d_digits", "distilbert_reviews", "gpt_copying", "gpt_reviews", "vit_digits"}
APPLIES = {
    "query_key_rescaled": PRODUCTS,
    "value_output_rescaled": PRODUCTS,
    "heads_permuted": PRODUCTS,
    "query_key_rotated": PRODUCTS,
    "norm_folded": {"gpt_copying", "gpt_reviews", "vit_digits"},  # the norms of the others stand elsewhere
    "scoring_units_permuted": {"han_keyed"},
}


@functools.cache
def _trained(name: str) -> tuple[Subject, Case]:
    subject: Subject = catalogue.load("subjects", name)()
    if reason := subject.unavailable():
        pytest.skip(reason)
    case = subject.case()
    subject.trained(case, steps=4)
    return subject, case


def output_of(case: Case) -> Tensor:
    case.model.eval()
    with torch.no_grad():
        output = (case.forward or default_forward)(case.model, next(iter(case.batches)))
    return output if isinstance(output, Tensor) else output.logits


def weights_of(case: Case) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in case.model.named_parameters()}


def equal(one: Any, two: Any) -> bool:
    return all(torch.equal(left, right) for left, right in zip(one.values(), two.values(), strict=True))


def control(name: str, **fields: Any) -> Control:
    made: Control = catalogue.load("controls", name)(**fields)
    return made


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_states_what_it_is(name: str) -> None:
    kind = check_member("controls", name)
    assert kind.__doc__ is not None
    for section in ("**Changes**", "**Why it is healthy**"):
        assert section in kind.__doc__
    assert control(name, seed=2).name == name


@pytest.mark.parametrize("subject_name", SUBJECTS)
@pytest.mark.parametrize("name", PRESERVING)
def test_the_function_is_preserved_where_it_applies(name: str, subject_name: str) -> None:
    _, case = _trained(subject_name)
    before, weights = output_of(case), weights_of(case)
    if subject_name not in APPLIES[name]:
        with pytest.raises(FaultError) as told:
            control(name).applied(case)
        assert len(str(told.value)) > 20
        return
    changed = control(name).applied(case)
    assert (output_of(changed) - before).abs().max() <= ROUNDING * before.abs().max()
    assert not equal(weights_of(changed), weights)
    assert equal(weights_of(case), weights)
    assert case.optimizer is not None


@pytest.mark.parametrize("name", ["heads_permuted", "scoring_units_permuted"])
def test_what_the_optimiser_remembers_moves_along(name: str) -> None:
    subject, case = _trained("han_keyed" if name == "scoring_units_permuted" else "gpt_copying")
    changed, twin = control(name).applied(case), copy.deepcopy(case)
    losses = subject.trained(changed, first=4, steps=3)
    assert losses == pytest.approx(subject.trained(twin, first=4, steps=3), rel=1e-4)
    assert (output_of(changed) - output_of(twin)).abs().max() <= 1e-3 * output_of(twin).abs().max()


def test_a_change_that_does_not_preserve_is_refused() -> None:
    _, case = _trained("gpt_copying")
    broken = copy.deepcopy(case)
    broken.model.get_submodule("blocks.1.attention.query").register_forward_hook(lambda *args: torch.tanh(args[2]))
    with pytest.raises(FaultError, match="output changes"):
        control("query_key_rescaled").applied(broken)


@pytest.mark.parametrize("subject_name", SUBJECTS)
@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_changes_the_training_and_not_the_original(name: str, subject_name: str) -> None:
    subject, _ = _trained(subject_name)
    case = subject.case()
    assert case.optimizer is not None
    groups = [{**group, "params": None} for group in case.optimizer.param_groups]
    changed = control(name).applied(case)
    assert [{**group, "params": None} for group in case.optimizer.param_groups] == groups
    healthy, other = subject.case(), changed
    subject.trained(healthy, steps=3)
    losses = subject.trained(other, steps=3)
    assert not equal(weights_of(healthy), weights_of(other))
    assert all(torch.isfinite(torch.tensor(losses)))


def test_the_warm_up_rises_to_the_whole_rate() -> None:
    subject, _ = _trained("gpt_copying")
    case = subject.case()
    assert case.optimizer is not None
    whole = case.optimizer.param_groups[0]["lr"]
    changed = control("warmup", n=4).applied(case)
    assert changed.optimizer is not None
    rates = []
    for number in range(6):
        rates.append(changed.optimizer.param_groups[0]["lr"])
        subject.trained(changed, first=number, steps=1)
    assert rates == pytest.approx([whole * share for share in (0.25, 0.5, 0.75, 1, 1, 1)])


@pytest.mark.parametrize("subject_name", ["gpt_copying", "gpt_reviews"])
def test_a_sink_rests_on_the_first_token_and_costs_little(subject_name: str) -> None:
    _, case = _trained(subject_name)
    changed = control("attention_sink").applied(case)
    masses = [first_token_mass(each) for each in (case, changed)]
    assert masses[0].max() < 0.3 <= masses[1].max()
    assert ((masses[1] - masses[0]).abs() > 0.1).sum() == 1
    assert loss_of(changed) < 1.05 * loss_of(case)


@pytest.mark.parametrize("subject_name", ["vit_digits", "distilbert_reviews", "conv3d_digits"])
def test_a_sink_needs_a_causal_model(subject_name: str) -> None:
    _, case = _trained(subject_name)
    with pytest.raises(FaultError, match="causal"):
        control("attention_sink").applied(case)


def first_token_mass(case: Case) -> Tensor:
    """Of every head, the mean mass that queries put on the first token."""
    case.model.eval()
    forward = case.forward or default_forward
    seen = observe(case.model, next(iter(case.batches)), anatomy=anatomy_of(case), forward=forward)
    return torch.stack([item.pattern[..., 0].mean((0, 2)) for item in seen.attentions])


def loss_of(case: Case) -> float:
    batch = next(iter(case.batches))
    with torch.no_grad():
        return float((case.loss or default_loss)((case.forward or default_forward)(case.model.eval(), batch), batch))


@pytest.mark.parametrize("subject_name", SUBJECTS)
def test_bfloat16_still_answers(subject_name: str) -> None:
    subject, case = _trained(subject_name)
    changed = control("bfloat16").applied(case)
    assert {parameter.dtype for parameter in changed.model.parameters()} == {torch.bfloat16}
    assert output_of(changed).dtype == torch.bfloat16
    assert subject.quality(changed) == pytest.approx(subject.quality(case), abs=0.05)
