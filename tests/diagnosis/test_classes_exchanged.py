"""Scores of classes that stand in another order: in eval mode only, or against the labels."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attnscope.case import Case
from attnscope.examine import diagnose
from attnscope.faults.classes_exchanged import ClassesExchanged
from attnscope.findings import Finding
from attnscope.lenses._assignment import assigned
from attnscope.models.distilbert import Distilbert

N_CLASSES = 4


def batches(n: int = 4, size: int = 24, n_classes: int = N_CLASSES) -> list[dict[str, Tensor]]:
    """The first token is the class."""
    drawn = torch.Generator().manual_seed(0)
    found = []
    for _ in range(n):
        ids = torch.randint(10, 50, (size, 6), generator=drawn)
        labels = torch.randint(0, n_classes, (size,), generator=drawn)
        ids[:, 0] = labels + 1
        found.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels})
    return found


def case_of(steps: int, n_classes: int = N_CLASSES) -> Case:
    model = Distilbert(n_layers=2, n_classes=n_classes, n_tokens=50, n_positions=8, seed=0).build()
    case = Case(model, batches(n_classes=n_classes), optimizer=torch.optim.AdamW(model.parameters(), lr=2e-3))
    torch.manual_seed(0)
    model.train()
    for step in range(steps):
        case.optimizer.zero_grad()  # type: ignore[union-attr]
        model(**list(case.batches)[step % 4]).loss.backward()
        case.optimizer.step()  # type: ignore[union-attr]
    return case


def found(case: Case, kinds: Sequence[str] = ("classes_exchanged", "labels_without_signal")) -> list[Finding]:
    return list(diagnose(case, select=kinds).findings)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_an_order_that_only_eval_mode_has(strength: float) -> None:
    (finding,) = found(ClassesExchanged(strength=strength).inject(case_of(60)))
    assert (finding.kind, finding.block_or_site) == ("classes_exchanged", "classifier")
    assert "eval mode" in finding.summary


def test_two_classes_explain_that_shuffled_labels_fit_as_well() -> None:
    case = ClassesExchanged(strength=1.0).inject(case_of(120, n_classes=2))
    (finding,) = found(case)
    assert finding.kind == "classes_exchanged"


def test_an_order_that_the_labels_do_not_have() -> None:
    case = case_of(80)
    head = case.model.classifier
    with torch.no_grad():
        head.weight.copy_(head.weight[[1, 2, 3, 0]])  # type: ignore
        head.bias.copy_(head.bias[[1, 2, 3, 0]])  # type: ignore
    (finding,) = found(case, ["classes_exchanged"])
    assert "than the labels have" in finding.summary
    assert finding.block_or_site == "classifier"


@pytest.mark.parametrize("steps", [0, 5, 60])
def test_healthy_at_any_time(steps: int) -> None:
    assert found(case_of(steps), ["classes_exchanged"]) == []


def test_a_constant_answer_is_no_order() -> None:
    """Two classes, nearly all labels of one, and a model that always answers the other."""
    case = case_of(0, n_classes=2)
    with torch.no_grad():
        case.model.classifier.weight.zero_()  # type: ignore
        case.model.classifier.bias.copy_(torch.tensor([1.0, 0.0]))  # type: ignore
    for batch in case.batches:
        batch["labels"].fill_(1)
        batch["labels"][0] = 0
    assert found(case, ["classes_exchanged"]) == []


def test_noise_between_the_modes_is_no_order() -> None:
    case = case_of(3)
    for module in case.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.7
    assert found(case, ["classes_exchanged"]) == []


def test_silent_without_labels_and_with_numbers_that_are_not_finite() -> None:
    case = case_of(60)
    with torch.no_grad():
        case.model.classifier.bias.fill_(float("nan"))  # type: ignore
    assert found(case, ["classes_exchanged"]) == []
    one = case_of(0)
    one.batches = [{"input_ids": batches()[0]["input_ids"]}]
    assert found(one, ["classes_exchanged"]) == []


def test_assignment_is_the_cheapest_and_prefers_the_diagonal() -> None:
    random = np.random.default_rng(0)
    for _ in range(100):
        size = int(random.integers(1, 6))
        cost = random.normal(size=(size, size)).round(1)
        least = min(sum(cost[i, order[i]] for i in range(size)) for order in itertools.permutations(range(size)))
        order = assigned(cost)
        assert sorted(order) == list(range(size))
        assert sum(cost[i, order[i]] for i in range(size)) == pytest.approx(least)
    assert assigned(np.zeros((4, 4))) == [0, 1, 2, 3]
