"""Recurrent modules that share parameters by mistake, or lose one of their directions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attnscope.case import Case
from attnscope.examine import diagnose
from attnscope.findings import Finding, Severity


class Reader(nn.Module):
    """Two recurrent modules, the second on top of the first, and additive attention over the states."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lower = nn.GRU(4, width, batch_first=True, bidirectional=True)
        self.upper = nn.GRU(2 * width, width, batch_first=True, bidirectional=True)
        self.score = nn.Linear(2 * width, 1)
        self.classifier = nn.Linear(2 * width, 3)
        self.lost = ""

    def forward(self, words: Tensor) -> Tensor:
        states = self.cut(self.lower(words)[0], "lower")
        states = self.cut(self.upper(states)[0], "upper")
        return self.classifier((torch.softmax(self.score(torch.tanh(states)), 1) * states).sum(1))

    def cut(self, states: Tensor, name: str) -> Tensor:
        forward, backward = states.chunk(2, -1)
        if self.lost == f"{name} backward":
            return torch.cat((forward, 0 * backward), -1)
        if self.lost == f"{name} forward":
            return torch.cat((0 * forward, backward), -1)
        return states


def found(model: nn.Module, code: str, *, length: int = 7) -> list[Finding]:
    generator = torch.Generator().manual_seed(1)
    batch = (torch.randn(5, length, 4, generator=generator), torch.arange(5) % 3)
    return list(diagnose(Case(model, [batch]), select=[code]).findings)


@pytest.mark.parametrize("name", ["lower", "upper"])
@pytest.mark.parametrize("direction", ["backward", "forward"])
def test_a_lost_direction(name: str, direction: str) -> None:
    model = Reader()
    model.lost = f"{name} {direction}"
    (finding,) = found(model, "GRD520")
    assert (finding.kind, finding.block_or_site, finding.severity) == ("direction_dropped", name, Severity.ERROR)
    assert direction in finding.summary


@pytest.mark.parametrize("length", [1, 7])
def test_both_directions_read(length: int) -> None:
    assert not found(Reader(), "GRD520", length=length)
    frozen = Reader().requires_grad_(False)
    frozen.classifier.requires_grad_(True)
    assert not found(frozen, "GRD520", length=length)


def test_no_gradient_at_all_and_numbers_that_are_not_finite() -> None:
    silent, broken = Reader(), Reader()
    with torch.no_grad():
        silent.classifier.weight.zero_()
        broken.lower.weight_hh_l0[0, 0] = float("nan")
    assert not found(silent, "GRD520")
    assert not found(broken, "GRD520")


def test_some_parameters_in_common() -> None:
    model = Reader()
    for name in ("weight_hh_l0", "bias_hh_l0"):
        setattr(model.upper, name, getattr(model.lower, name))
    (finding,) = found(model, "PRJ302")
    assert (finding.kind, finding.block_or_site, finding.severity) == ("shared_by_mistake", "upper", Severity.ERROR)


class Twins(Reader):
    """Reads two texts with one module, which goes by two names."""

    def __init__(self) -> None:
        super().__init__()
        self.other = self.lower


def test_nothing_in_common_and_one_module_under_two_names() -> None:
    assert not found(Reader(), "PRJ302")
    assert not found(Twins(), "PRJ302")


def test_all_parameters_in_common_is_a_warning() -> None:
    model = Reader(width=2)  # the lower one's input is as wide as its output
    for name, _ in list(model.upper.named_parameters()):
        setattr(model.upper, name, getattr(model.lower, name))
    (finding,) = found(model, "PRJ302")
    assert finding.severity is Severity.WARNING
