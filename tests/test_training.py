"""The loop trains, lenses fire on their schedule and disturb nothing, the start state is kept; watch never breaks."""

import copy
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import small_probes
from attnscope import Case, open_run, trace, train, watch
from attnscope.errors import CaseError
from attnscope.examine import diagnose, probe_of
from attnscope.lenses import Lens
from attnscope.lenses.weight_norms import WeightNorms
from attnscope.probe import Probe
from attnscope.readings import FAILED, Reading
from attnscope.start import save_start, start_of


def case(seed: int = 0, name: str = "han", **more: Any) -> Case:
    torch.manual_seed(seed)
    model, batch, expects, loss = small_probes.MODELS[name]()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return Case(model, [batch], loss, optimizer=optimizer, expects=expects, **more)


@dataclass(frozen=True)
class Grown(Lens):
    """Distance of all parameters from the start of the run."""

    unit = "1"
    dims = ("block",)

    @property
    def name(self) -> str:
        return "grown"

    def measure(self, probe: Probe) -> Reading:
        assert probe.start is not None
        apart = sum(float((p.detach() - probe.start[n]).square().sum()) for n, p in probe.model.named_parameters())
        return Reading("grown", torch.tensor([apart]).numpy(), self.dims, self.unit, {"block": ("all",)})


@dataclass(frozen=True)
class Broken(Grown):
    @property
    def name(self) -> str:
        return "broken"

    def measure(self, probe: Probe) -> Reading:
        raise RuntimeError("no such thing")


def test_lenses_fire_on_schedule_and_see_the_start(tmp_path: Path) -> None:
    made = case()
    before = start_of(made.model)
    run = train(made, 7, lenses=["attention_entropy", Grown()], every=3, run=tmp_path)
    assert run.steps == (0, 3, 6, 7)
    grown = run.series("grown").values[:, 0]
    assert grown[0] == 0
    assert (grown[1:] > 0).all()
    losses = run.series("training_loss")
    assert losses.labels("step") == (3, 6, 7)
    assert losses.values[-1] < losses.values[0]
    again = open_run(tmp_path)
    assert again.lenses == ("attention_entropy", "grown", "training_loss")
    assert again.start is not None
    stored = Case(made.model, made.batches, start=again.start).start
    assert all(torch.equal(before[name], value) for name, value in stored.items())
    with pytest.raises(TypeError):
        stored["x"] = torch.zeros(1)  # type: ignore[index]


@pytest.mark.parametrize("name", ["gpt", "han"])
def test_lenses_disturb_nothing(name: str) -> None:
    with_lenses, without = case(name=name), case(name=name)
    for made, lenses in ((with_lenses, ["attention_entropy", "gradient_norm", "other_example"]), (without, [])):
        torch.manual_seed(5)
        train(made, 5, lenses=lenses, every=2)
    one, other = with_lenses.model.state_dict(), without.model.state_dict()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_lens_that_raises_leaves_a_failed_reading() -> None:
    run = train(case(), 1, lenses=[Broken()])
    assert (run.series("broken").status, run.series("broken").note) == (FAILED, "RuntimeError: no such thing")


def test_a_run_is_continued(tmp_path: Path) -> None:
    made = case()
    train(made, 4, lenses=[Grown()], every=2, run=tmp_path)
    later = Case(made.model, made.batches, optimizer=made.optimizer)
    run = train(later, 4, lenses=[Grown()], every=2, run=tmp_path)
    assert run.steps == (0, 2, 4, 6, 8)
    assert (run.series("grown").values[1:, 0] > run.series("grown").values[1, 0] * 0.5).all()  # of the first start


def test_bad_arguments() -> None:
    made = case()
    with pytest.raises(CaseError, match="optimizer"):
        train(Case(made.model, made.batches), 1)
    with pytest.raises(ValueError, match="every at least 1"):
        train(made, 1, every=0)
    with pytest.raises(CaseError, match="cannot be read again"):
        train(made, 3, batches=iter(list(made.batches)))


class TestStart:
    def test_diagnose_passes_it_on_by_the_inner_names(self) -> None:
        made = case()
        wrapped = nn.DataParallel(made.model)
        start = {f"module.{name}": value for name, value in start_of(made.model).items()}
        given = Case(wrapped, made.batches, start=start)
        probe = probe_of(given, trace(wrapped, given.batches[0]))  # type: ignore[index]
        assert probe.start is not None
        assert set(probe.start) == {name for name, _ in probe.model.named_parameters()}
        assert diagnose(given, effort="light").anatomy.attentions

    def test_from_a_file(self, tmp_path: Path) -> None:
        made = case()
        path = save_start(start_of(made.model), tmp_path / "start.safetensors")
        assert Case(made.model, made.batches, start=str(path)).start is not None

    def test_bad_starts(self, tmp_path: Path) -> None:
        made = case()
        weight = next(iter(start_of(made.model)))
        for given, message in (
            (tmp_path / "none.safetensors", "cannot read .*none.safetensors"),
            (3, "must map parameter names"),
            ({weight: 1.0}, "must be a tensor, found float"),
            ({weight: torch.zeros(1)}, "start of another model"),
            ({"other.weight": torch.zeros(1)}, "names no parameter of Han: it holds 'other.weight'"),
        ):
            with pytest.raises(CaseError, match=message):
                Case(made.model, made.batches, start=given)  # type: ignore[arg-type]
        (tmp_path / "bad.safetensors").write_bytes(b"nonsense")
        with pytest.raises(CaseError, match="cannot read"):
            Case(made.model, made.batches, start=tmp_path / "bad.safetensors")
        save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
        with pytest.raises(CaseError, match="names no parameter"):
            Case(made.model, made.batches, start=tmp_path / "other.safetensors")


def own_loop(made: Case, watched: Any, steps: int) -> None:
    for _ in range(steps):
        loss = nn.functional.cross_entropy(made.model(made.batches[0][0]), made.batches[0][1])  # type: ignore[index]
        made.optimizer.zero_grad()  # type: ignore[union-attr]
        loss.backward()
        made.optimizer.step()  # type: ignore[union-attr]
        watched.step(loss)


def test_watch_records_beside_a_loop_and_changes_nothing(tmp_path: Path) -> None:
    made = case()
    plain = copy.deepcopy(made.model)
    with watch(made.model, made.optimizer, made.batches, lenses=[WeightNorms()], every=2, run=tmp_path) as watched:  # type: ignore[arg-type]
        own_loop(made, watched, 5)
    assert open_run(tmp_path).steps == (0, 2, 4, 5)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-2)
    unwatched = Case(plain, made.batches, optimizer=optimizer)
    own_loop(unwatched, type("Nobody", (), {"step": lambda self, loss: None})(), 5)
    assert all(torch.equal(a, b) for a, b in zip(made.model.parameters(), plain.parameters(), strict=True))


def test_watch_never_breaks_the_loop(tmp_path: Path) -> None:
    made = case()
    with pytest.warns(RuntimeWarning, match="stopped watching: CatalogueError"), \
            watch(made.model, made.optimizer, made.batches, lenses=["no_such_lens"]) as watched:  # type: ignore[arg-type]
        own_loop(made, watched, 3)
    assert watched.n_steps == 3
    folder = tmp_path / "run"
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with watch(made.model, made.optimizer, made.batches, every=1, run=folder) as watched:  # type: ignore[arg-type]
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
            folder.write_text("a file now")
            own_loop(made, watched, 3)
    said = [str(item.message) for item in seen if issubclass(item.category, RuntimeWarning)]
    assert len(said) == 1
    assert "stopped watching: RecordError" in said[0]


def test_watch_lets_the_loops_own_error_through() -> None:
    made = case()
    with pytest.raises(ZeroDivisionError), watch(made.model, made.optimizer, made.batches):  # type: ignore[arg-type]
        raise ZeroDivisionError
