"""Every subject: the same case and batches each time, nothing trained on is tested, and it learns its task."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from attnscope import catalogue
from attnscope.anatomy.trace import trace
from attnscope.bench.subjects import Subject
from attnscope.case import Case, Expectations, default_forward
from attnscope.testing import check_member

SUBJECTS = catalogue.names("subjects")
SLOW = {"distilbert_pretrained"}
NOT_TINY = {"distilbert_pretrained"}
LAYERS = {"han": 2, "conv3d_attention": 1}  # their architecture has no more; the others have an early, a middle, a late


def built(name: str, seed: int = 0) -> Subject:
    subject: Subject = catalogue.load("subjects", name)(seed=seed)
    if reason := subject.unavailable():
        pytest.skip(reason)
    return subject


def inputs_of(batch: Any) -> Tensor:
    return batch["input_ids"] if isinstance(batch, dict) else batch[0]


def tensors(batch: Any) -> list[Tensor]:
    return list(batch.values()) if isinstance(batch, dict) else list(batch)


def rows(batches: list[Any]) -> set[bytes]:
    return {row.numpy().tobytes() for batch in batches for row in inputs_of(batch)}


def same(one: list[Tensor], two: list[Tensor]) -> bool:
    return len(one) == len(two) and all(torch.equal(left, right) for left, right in zip(one, two, strict=True))


def state(case: Case) -> list[Tensor]:
    return list(case.model.state_dict().values())


@pytest.mark.parametrize("name", SUBJECTS)
def test_a_subject_states_what_it_is(name: str) -> None:
    kind = check_member("subjects", name)
    assert kind.__doc__ is not None
    for section in ("**Task**", "**Model**", "**Healthy**"):
        assert section in kind.__doc__
    assert kind.chance < kind.healthy_quality <= 1
    assert kind(seed=3).name == name


@pytest.mark.parametrize("name", SUBJECTS)
def test_it_gives_the_same_each_time(name: str) -> None:
    subject = built(name)
    torch.manual_seed(1)
    one = subject.case()
    torch.manual_seed(2)
    again = subject.case()
    assert same(state(one), state(again))
    assert not same(state(one), state(built(name, seed=1).case()))
    batches, others = list(one.batches), list(again.batches)
    assert len(batches) == 4
    for batch, other in zip(batches, others, strict=True):
        assert same(tensors(batch), tensors(other))
        assert 16 <= len(inputs_of(batch)) <= 32
    for number in (0, 3):
        assert same(tensors(subject.batch(number)), tensors(built(name).batch(number)))
        assert same(tensors(subject.held_out(number)), tensors(built(name).held_out(number)))
    assert not same(tensors(subject.batch(0)), tensors(subject.batch(1)))
    assert not same(tensors(subject.batch(0)), tensors(built(name, seed=1).batch(0)))


@pytest.mark.parametrize("name", SUBJECTS)
def test_nothing_it_trains_on_is_tested_or_probed(name: str) -> None:
    subject = built(name)
    trained = rows([subject.batch(number) for number in range(subject.steps)])
    tested = rows([subject.held_out(number) for number in range(subject.n_held_out)])
    probed = rows(list(subject.case().batches))
    assert len(trained) > 500
    assert not trained & tested
    assert not trained & probed


@pytest.mark.parametrize("name", SUBJECTS)
def test_it_is_small_and_has_the_layers(name: str) -> None:
    subject = built(name)
    case = subject.case()
    anatomy = trace(case.model, next(iter(case.batches)), case.forward or default_forward)
    assert len(anatomy.attentions) >= LAYERS.get(subject.model, 3)
    assert len(anatomy.blocks) <= 60
    assert isinstance(case.expects, Expectations)
    assert case.optimizer is not None
    held = {id(parameter) for group in case.optimizer.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in case.model.parameters()}
    if name not in NOT_TINY:
        assert sum(parameter.numel() for parameter in case.model.parameters()) < 500_000


@pytest.mark.parametrize("name", [n for n in SUBJECTS if n not in SLOW])
def test_training_is_repeated_exactly_and_can_be_split(name: str) -> None:
    subject = built(name)
    whole, parts = subject.case(), subject.case()
    torch.manual_seed(5)
    losses = subject.trained(whole, steps=4)
    torch.manual_seed(6)
    assert losses == subject.trained(parts, steps=2) + subject.trained(parts, first=2, steps=2)
    assert same(state(whole), state(parts))


@pytest.mark.slow
@pytest.mark.parametrize("name", SUBJECTS)
def test_it_learns_its_task(name: str) -> None:
    subject = built(name)
    case = subject.case()
    assert subject.quality(case) < subject.healthy_quality
    subject.trained(case)
    assert subject.quality(case) >= subject.healthy_quality
