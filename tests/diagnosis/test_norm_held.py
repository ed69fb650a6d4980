"""A table whose norm is cut back after each step is named; one that trains freely, or is on a sphere, is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from attnscope.case import Case
from attnscope.examine import diagnose
from attnscope.findings import Finding
from attnscope.models.gpt import Gpt


def found(keep: Callable, *, steps: int = 8, with_start: bool = True, sphere: bool = False) -> list[Finding]:
    torch.manual_seed(0)
    model = Gpt(n_tokens=20, n_positions=16, d_model=32, n_heads=4, n_layers=1)
    if sphere:
        rows(model, 1.0)
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    norm = float(model.positions.weight.detach().norm())
    ids = torch.randint(0, 20, (8, 17), generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, -2), ids[:, 1:].flatten()).backward()
        optimizer.step()
        keep(model, norm)
    batch = (ids[:, :-1], ids[:, 1:])
    case = Case(model, [batch], optimizer=optimizer, start=start if with_start else None)
    return list(diagnose(case, select=["GRD521"]).findings)


@torch.no_grad()
def whole(model: nn.Module, norm: float) -> None:
    model.positions.weight.mul_(norm / model.positions.weight.norm())


@torch.no_grad()
def rows(model: nn.Module, norm: float) -> None:
    model.positions.weight.div_(model.positions.weight.norm(dim=1, keepdim=True))


@torch.no_grad()
def turned(model: nn.Module, norm: float) -> None:
    model.positions.weight.copy_(model.positions.weight.flip(0))


def free(model: nn.Module, norm: float) -> None:
    """Nothing is done to the table."""


def test_a_norm_that_is_cut_back() -> None:
    (finding,) = found(whole)
    assert (finding.kind, finding.block_or_site) == ("norm_held", "positions")


@pytest.mark.parametrize("keep", [free, turned])
def test_tables_that_train_freely(keep: Callable) -> None:
    assert not found(keep)


def test_before_training_without_a_start_and_on_a_sphere() -> None:
    assert not found(whole, steps=0)
    assert not found(whole, with_start=False)
    assert not found(rows, sphere=True)
