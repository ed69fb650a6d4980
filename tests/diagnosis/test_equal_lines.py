"""Positions that share a row, and units of a network that are copies, are named; before training nothing is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from attnscope.case import Case
from attnscope.examine import diagnose
from attnscope.findings import Finding, Severity
from attnscope.models.gpt import Gpt

CODES = ("POS402", "POS406", "PRJ311")


def nothing(model: nn.Module) -> None:
    """No change."""


@torch.no_grad()
def truncated(model: nn.Module) -> None:
    model.positions.weight[8:] = model.positions.weight[8]


@torch.no_grad()
def constant(model: nn.Module) -> None:
    model.positions.weight[:] = model.positions.weight[0]


@torch.no_grad()
def beyond_the_text(model: nn.Module) -> None:
    model.positions.weight[12:] = model.positions.weight[12]


@torch.no_grad()
def ones(model: nn.Module) -> None:
    for linear in (model.blocks[1].mlp_in, model.blocks[1].mlp_out):
        linear.weight.fill_(0.5)
        linear.bias.zero_()


def case(
    *, start: Callable = nothing, keep: Callable = nothing, steps: int = 4, dtype: torch.dtype | None = None
) -> Case:
    torch.manual_seed(0)
    model = Gpt(n_tokens=20, n_positions=16, d_model=32, n_heads=4, n_layers=2).to(dtype)
    ids = torch.randint(0, 20, (8, 13), generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    start(model)
    keep(model)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, -2), ids[:, 1:].flatten()).backward()
        optimizer.step()
        keep(model)
    return Case(model, [(ids[:, :-1], ids[:, 1:])], optimizer=optimizer)


def found(given: Case) -> list[Finding]:
    return list(diagnose(given, select=CODES).findings)


def test_late_positions_share_a_row() -> None:
    (finding,) = found(case(keep=truncated))
    assert (finding.kind, finding.block_or_site) == ("positions_truncated", "positions")
    assert finding.severity is Severity.ERROR
    assert "4 of 12" in finding.summary


def test_all_positions_share_a_row() -> None:
    (finding,) = found(case(keep=constant))
    assert (finding.kind, finding.block_or_site) == ("positions_constant", "positions")


def test_units_that_start_alike_stay_alike() -> None:
    (finding,) = found(case(start=ones))
    assert (finding.kind, finding.layer, finding.severity) == ("symmetric_units", 1, Severity.ERROR)


@pytest.mark.parametrize("start", [nothing, truncated, beyond_the_text])
@pytest.mark.parametrize("steps", [0, 5])
def test_healthy_and_before_training(start: Callable, steps: int) -> None:
    assert not found(case(start=start, steps=steps))


def test_units_before_training_and_rows_that_no_text_reaches() -> None:
    assert not found(case(start=ones, steps=0))
    assert not found(case(keep=beyond_the_text))


def test_without_an_optimizer_and_with_numbers_that_are_not_finite() -> None:
    given = case(keep=truncated)
    assert not found(Case(given.model, given.batches))
    with torch.no_grad():
        given.model.positions.weight[0] = float("nan")
    assert not found(given)


def test_a_coarse_precision_proves_nothing() -> None:
    assert not found(case(keep=truncated, dtype=torch.bfloat16))
