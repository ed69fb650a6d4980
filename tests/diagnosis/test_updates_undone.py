"""Steps that are taken back after they are made."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from attnscope.case import Case
from attnscope.examine import diagnose
from attnscope.faults.stale_projections import StaleProjections
from attnscope.faults.zeroed_key import ZeroedKey
from attnscope.findings import Finding, Severity
from attnscope.models.distilbert import Distilbert

Rate = Callable[[int], float]
Make = Callable[[nn.Module], torch.optim.Optimizer]


def case_of(make: Make | None = None) -> Case:
    drawn = torch.Generator().manual_seed(0)
    model = Distilbert(n_layers=2, n_classes=2, n_tokens=50, n_positions=8, seed=0).build()
    batches = []
    for _ in range(4):
        ids = torch.randint(3, 50, (8, 6), generator=drawn)
        labels = torch.randint(0, 2, (8,), generator=drawn)
        ids[:, 0] = labels + 1
        batches.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels})
    optimizer = make(model) if make is not None else torch.optim.AdamW(model.parameters(), lr=1e-3)
    return Case(model, batches, optimizer=optimizer)


def trained(case: Case, steps: int = 120, rate: Rate | None = None) -> Case:
    case.start = {name: value.detach().clone() for name, value in case.model.named_parameters()}
    torch.manual_seed(0)
    case.model.train()
    for step in range(steps):
        for group in case.optimizer.param_groups:  # type: ignore[union-attr]
            group["lr"] = group["lr"] if rate is None else 1e-3 * rate(step)
        case.optimizer.zero_grad()  # type: ignore[union-attr]
        case.model(**list(case.batches)[step % 4]).loss.backward()
        case.optimizer.step()  # type: ignore[union-attr]
    return case


def found(case: Case) -> list[Finding]:
    return list(diagnose(case, select=["updates_undone"]).findings)


@pytest.mark.parametrize(
    ("strength", "severity"), [(0.5, Severity.WARNING), (0.9, Severity.WARNING), (1.0, Severity.ERROR)]
)
def test_steps_that_are_taken_back(strength: float, severity: Severity) -> None:
    (finding,) = found(trained(StaleProjections(layer=0, strength=strength).inject(case_of())))
    assert (finding.kind, finding.block_or_site, finding.severity) == ("updates_undone", "L0.Q", severity)
    assert set(finding.consequences) == {"L0.K", "L0.V"}


def test_a_block_that_does_not_move_at_all_is_seen_early() -> None:
    (finding,) = found(trained(StaleProjections(layer=0, strength=1.0).inject(case_of()), steps=30))
    assert finding.severity is Severity.ERROR


@pytest.mark.parametrize(
    "rate",
    [
        lambda step: 1.0,
        lambda step: min(1.0, (step + 1) / 110),  # warm-up up to the end
        lambda step: 1.0 - step / 121,  # decay to nearly nothing
        lambda step: 10.0 if step > 110 else 1.0,  # a sudden rise
    ],
)
def test_schedules_of_healthy_training(rate: Rate) -> None:
    assert found(trained(case_of(), rate=rate)) == []


@pytest.mark.parametrize("steps", [0, 1, 12])
def test_the_first_steps_prove_nothing(steps: int) -> None:
    assert found(trained(case_of(), steps=steps)) == []


def test_frozen_blocks_have_no_steps_to_take_back() -> None:
    case = case_of()
    case.model.distilbert.transformer.layer[0].attention.requires_grad_(False)  # type: ignore
    assert found(trained(case)) == []


def test_a_block_that_is_kept_at_zero_is_another_finding() -> None:
    assert found(trained(ZeroedKey(layer=0, strength=1.0).inject(case_of()))) == []


def test_other_optimisers_no_optimiser_and_an_unknown_start() -> None:
    assert found(trained(case_of(lambda model: torch.optim.SGD(model.parameters(), lr=1e-3)), steps=3)) == []
    case = trained(case_of())
    assert found(Case(case.model, case.batches, start=case.start)) == []
    assert found(Case(case.model, case.batches, optimizer=case.optimizer)) == []
    here = {name: value.detach().clone() for name, value in case.model.named_parameters()}
    assert found(Case(case.model, case.batches, optimizer=case.optimizer, start=here)) == []
