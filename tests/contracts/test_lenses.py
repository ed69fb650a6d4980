"""Every lens in the folder keeps the promises of its family, on models of different kinds."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import small_probes
from attnscope import catalogue
from attnscope.anatomy.trace import trace
from attnscope.case import Case
from attnscope.lenses import DEEP, Lens, RunLens
from attnscope.probe import Probe
from attnscope.readings import NOT_APPLICABLE, OK, Reading
from attnscope.record import Run
from attnscope.testing import (
    ContractError,
    check_docstring,
    check_lens,
    check_member,
    check_reading,
    check_round_trip,
    check_run_lens,
)
from attnscope.training import train

NAMES = catalogue.names("lenses")
SMALLER = {"n_probes": 3, "max_steps": 5, "n_steps": 3, "points": 21}


def made(name: str) -> Lens:
    """The lens; the deep ones with settings that suit a test."""
    member = catalogue.load("lenses", name)
    known = {field.name for field in dataclasses.fields(member)}
    return member(**{key: value for key, value in SMALLER.items() if key in known and member.effort == DEEP})


@pytest.mark.parametrize("name", NAMES)
def test_has_the_form_of_a_member(name: str) -> None:
    check_member("lenses", name)


@pytest.mark.parametrize("model", small_probes.MODELS)
@pytest.mark.parametrize("name", NAMES)
def test_keeps_its_promises(name: str, model: str) -> None:
    check_lens(made(name), lambda: small_probes.probe(model))


def single(batch: Any) -> Any:
    return {key: value[:1] for key, value in batch.items()} if isinstance(batch, dict) else [v[:1] for v in batch]


OTHERS: dict[str, Callable[[Probe], tuple[nn.Module, Any]]] = {
    "bfloat16": lambda probe: (copy.deepcopy(probe.model).bfloat16(), probe.batch),
    "float64": lambda probe: (copy.deepcopy(probe.model).double(), probe.batch),
    "one example": lambda probe: (probe.model, single(probe.batch)),
    "two tokens": lambda probe: (probe.model, {**probe.batch, "input_ids": probe.batch["input_ids"][:, :2]}),
}


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("name", [name for name in NAMES if catalogue.load("lenses", name).effort != DEEP])
def test_takes_other_precisions_and_sizes(name: str, other: str) -> None:
    lens = made(name)
    probe = small_probes.probe("gpt")
    model, batch = OTHERS[other](probe)
    model.eval()
    changed = dataclasses.replace(
        probe, model=model, batches=(batch,), anatomy=trace(model, batch), optimizer=None, shared={}
    )
    if lens.applies_to(changed.anatomy):
        return
    reading = lens.measure(changed)
    check_reading(lens, reading)
    check_round_trip(reading)
    assert reading.status in (OK, NOT_APPLICABLE), reading.note


@pytest.mark.parametrize("name", NAMES)
def test_can_be_drawn(name: str) -> None:
    figures = pytest.importorskip("attnscope.pages.figures")
    drawing = pytest.importorskip("attnscope.pages.drawing")
    lens = made(name)
    probes = [probe for probe in map(small_probes.probe, ("gpt", "distilbert")) if not lens.applies_to(probe.anatomy)]
    for probe in probes:
        reading = lens.measure(probe)
        finite = reading.values[np.isfinite(reading.values)]
        several = len(set(finite.tolist())) > 1  # one number needs no picture
        drawn = figures.figure(drawing.Drawing(reading))
        assert drawn is not None or not several, reading.dims


@dataclasses.dataclass(frozen=True)
class Clumsy(Lens):
    """Does what no lens may.

    **Measures** nothing.
    """

    unit = "1"
    dims = ("block",)
    mischief: str = "none"

    @property
    def name(self) -> str:
        return "clumsy"

    def measure(self, probe: Probe) -> Reading:
        model = probe.model
        if self.mischief == "weights":
            with torch.no_grad():
                next(model.parameters()).add_(1e-3)
        elif self.mischief == "gradients":
            next(model.parameters()).grad = None
        elif self.mischief == "mode":
            model.eval()
        elif self.mischief == "hooks":
            model.register_forward_hook(lambda *_: None)
        elif self.mischief == "random":
            torch.rand(1)
        elif self.mischief == "batch":
            probe.batch["input_ids"][0, 0] = 0
        elif self.mischief == "optimiser":
            assert probe.optimizer is not None
            probe.optimizer.param_groups[0]["lr"] = 0.0
        elif self.mischief == "unrepeatable":
            return self.reading([float(id(probe))], coords={"block": ("all",)})
        value = float(next(model.parameters()).detach().sum())
        return self.reading([value], coords={"block": ("all",)})


@pytest.mark.parametrize("mischief", ["weights", "gradients", "mode", "hooks", "random", "batch", "optimiser"])
def test_the_contract_notices_what_is_changed(mischief: str) -> None:
    with pytest.raises(ContractError, match="changed"):
        check_lens(Clumsy(mischief), lambda: small_probes.probe("gpt"))


def test_the_contract_notices_a_lens_that_does_not_repeat() -> None:
    with pytest.raises(ContractError, match="another reading on a fresh probe"):
        check_lens(Clumsy("unrepeatable"), lambda: small_probes.probe("gpt"))


def test_the_contract_passes_a_lens_that_behaves() -> None:
    check_lens(Clumsy(), lambda: small_probes.probe("gpt"))


def test_the_contract_notices_a_missing_section() -> None:
    with pytest.raises(ContractError, match="sections"):
        check_docstring(Clumsy, ("Measures", "Reading it"))


def test_the_catalogue_tells_lenses_of_a_moment_from_lenses_of_a_run() -> None:
    moments, runs = set(catalogue.names("lenses")), set(catalogue.names("run_lenses"))
    assert not moments & (runs | {"over_runs"})
    assert all(issubclass(catalogue.load("lenses", name), Lens) for name in moments)
    assert all(issubclass(catalogue.load("run_lenses", name), RunLens) for name in runs)


@pytest.fixture(scope="module")
def short_run() -> Run:
    """A few steps of a small model, with the readings that lenses of a run ask for."""
    needed = {lens for name in catalogue.names("run_lenses") for lens in catalogue.load("run_lenses", name).needs}
    probe = small_probes.probe("han")
    case = Case(probe.model, probe.batches, probe.loss, probe.forward, probe.optimizer, probe.expects)
    return train(case, 5, lenses=sorted(needed), every=1)


@pytest.mark.parametrize("name", catalogue.names("run_lenses"))
def test_a_lens_of_a_run_keeps_its_promises(name: str, short_run: Run) -> None:
    check_member("run_lenses", name)
    reading = check_run_lens(catalogue.load("run_lenses", name)(), short_run)
    assert np.isfinite(reading.values).any()
