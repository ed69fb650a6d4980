"""Many checkpoints of one model: each measured once, on any executor, and drawn side by side."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn
from typer.testing import CliRunner

from attnscope import cli
from attnscope.curvature.hessian import Hessian
from attnscope.curvature.lanczos import lanczos
from attnscope.errors import CaseError
from attnscope.portrait import checkpoints as many
from attnscope.portrait.portrait import Request
from attnscope.portrait.weights import check_fits, load_weights
from reference.curvature_cases import TinyAttention, tiny_batch, tiny_blocks, tiny_loss

CASE = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
import torch
from attnscope import Case
from reference.curvature_cases import TinyAttention, tiny_batch

def make_case():
    torch.manual_seed(0)
    model = TinyAttention()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    return Case(model, [tiny_batch()], optimizer=optimizer, name="tiny")

def without_a_seed():
    tokens, targets = tiny_batch(seed=int(torch.seed() % 2**31))
    return Case(TinyAttention(), [(tokens, targets)], name="tiny")
"""
SPECTRUM = Request(measures=("spectrum",), budget=3000)
runner = CliRunner()


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A case and three checkpoints of a training run."""
    (tmp_path / "many_case.py").write_text(CASE)
    torch.manual_seed(1)
    model = TinyAttention()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for step in (2, 10, 9):
        for _ in range(5):
            optimizer.zero_grad()
            tiny_loss(model, tiny_batch()).backward()
            optimizer.step()
        save_model(model, str(tmp_path / f"step{step}.safetensors"))
    return tmp_path


def jobs(runs: Path, request: Request = SPECTRUM, factory: str = "make_case") -> list[many.Job]:
    return many.jobs_of(f"{runs / 'many_case.py'}:{factory}", str(runs / "*.safetensors"), request, runs / "out")


def test_each_gets_the_curvature_of_its_own_weights(runs: Path) -> None:
    asked = jobs(runs)
    assert [job.name for job in asked] == ["step2", "step9", "step10"]
    assert [outcome.name for outcome in many.measure(asked)] == ["step2", "step9", "step10"]
    found = many.over_checkpoints(many.read(asked))
    top = found["top_eigenvalue"]
    assert top.facts["steps"] == [2, 9, 10]
    for row, job in enumerate(asked):
        model = TinyAttention()
        load_weights(job.checkpoint, model)
        alone = lanczos(Hessian(model, [tiny_batch()], tiny_loss, tiny_blocks(model)), max_steps=12)
        known = dict(zip(top.labels("block"), top.values[row].tolist(), strict=True))
        assert known["L0.V"] == pytest.approx(alone["L0.V"].top, rel=0.02)
    # SGD with momentum 0.9 at 0.5: (2 + 1.8) / 0.5, whatever the weights.
    assert found["stability_limit"].values == pytest.approx(7.6)
    assert (found["stability"].values > 0).all()


def test_those_that_exist_are_not_made_again(runs: Path) -> None:
    asked = jobs(runs)
    list(many.measure(asked))
    kept = asked[0].output.stat().st_mtime_ns
    asked[1].output.unlink()
    assert [outcome.name for outcome in many.measure(asked)] == ["step9"]
    assert asked[0].output.stat().st_mtime_ns == kept
    # Other weights under the same name are measured again; other settings are refused.
    save_model(TinyAttention(), str(asked[2].checkpoint))
    assert [outcome.name for outcome in many.measure(asked)] == ["step10"]
    with pytest.raises(CaseError, match="other settings"):
        list(many.measure(jobs(runs, Request(measures=("spectrum",), budget=50))))


def test_weights_that_are_not_finite_do_not_stop_the_others(runs: Path) -> None:
    broken = TinyAttention()
    broken.mlp[0].weight.data[0, 0] = torch.nan
    save_model(broken, str(runs / "step3.safetensors"))
    list(many.measure(asked := jobs(runs)))
    portraits = many.read(asked)
    assert [bool(item["error"]) for item in portraits] == [False, True, False, False]
    assert "step3: parameter 'mlp.0.weight' has 1 entries" in many.notes_of(portraits)[0]
    assert torch.tensor(many.over_checkpoints(portraits)["top_eigenvalue"].values).isnan().all(1).tolist() == [
        False, True, False, False
    ]


def test_data_that_differ_between_checkpoints_are_told(runs: Path) -> None:
    list(many.measure(asked := jobs(runs, factory="without_a_seed")))
    assert any("different data for different checkpoints" in note for note in many.notes_of(many.read(asked)))


def test_a_misfit_is_named_before_anything_is_measured(runs: Path) -> None:
    weights = dict(TinyAttention().state_dict())
    path = runs / "a.safetensors"
    save_file({f"module.{name}": tensor for name, tensor in weights.items()}, path)
    with pytest.raises(CaseError, match=r"no tensor 'embedding.weight'.*'module.embedding.weight'.*wrapper"):
        list(many.measure(jobs(runs)))
    assert not (runs / "out").exists()
    save_file({**weights, "in_proj.weight": torch.zeros(2, 4)}, path)
    with pytest.raises(CaseError, match=r"'in_proj.weight' has shape \(2, 4\), the model's has \(12, 4\)"):
        check_fits(path, TinyAttention())
    save_file({**weights, "extra": torch.zeros(2)}, path)
    with pytest.raises(CaseError, match="holds a tensor 'extra', which the model does not have"):
        check_fits(path, TinyAttention())
    path.write_bytes(b"nothing")
    with pytest.raises(CaseError, match="cannot be read as safetensors"):
        check_fits(path, TinyAttention())
    with pytest.raises(CaseError, match="others can run code"):
        check_fits(runs / "a.pt", TinyAttention())
    with pytest.raises(CaseError, match="no file is named like"):
        many.jobs_of("x.py:f", str(runs / "*.nothing"), SPECTRUM, runs / "out")


def test_tied_weights_may_be_saved_once(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 3)
            self.last.weight = self.first.weight

    saved, model = Tied(), Tied()
    save_model(saved, str(tmp_path / "tied.safetensors"))
    load_weights(tmp_path / "tied.safetensors", model)
    assert torch.equal(model.last.weight, saved.last.weight)
    assert model.last.weight is model.first.weight


def test_the_command(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)
    command = ["curvature", "many_case.py:make_case", "--checkpoints", "*.safetensors", "-o", "out",
               "--measure", "spectrum", "--budget", "3000", "--html", "page.html", "--figures", "figures"]
    found = runner.invoke(cli.app, command)
    assert found.exit_code == 0, found.output
    assert "step10" in found.output
    assert "3 of 3 checkpoints" in found.output
    assert "stability limit 7.6" in (runs / "page.html").read_text()
    assert (runs / "figures" / "top_eigenvalue-over_checkpoints.svg").read_text().count("<path") > 8
    data = json.loads(runner.invoke(cli.app, [*command[:-4], "--format", "json"]).stdout)
    assert data["readings"]["top_eigenvalue"]["coords"]["checkpoint"] == ["step2", "step9", "step10"]
    assert runner.invoke(cli.app, [*command, "--training", "3"]).exit_code == 2
    assert runner.invoke(cli.app, ["curvature", "many_case.py:make_case", "--ray", "local"]).exit_code == 2


@pytest.mark.slow
@pytest.mark.parametrize("ray", [None, "local"])
def test_two_workers_give_what_one_gives(runs: Path, ray: str | None) -> None:
    if ray is not None:
        pytest.importorskip("ray")
    list(many.measure(asked := jobs(runs)))
    alone = many.over_checkpoints(many.read(asked))
    for job in asked:
        job.output.unlink()
    assert sorted(outcome.name for outcome in many.measure(asked, workers=2, ray=ray)) == ["step10", "step2", "step9"]
    together = many.over_checkpoints(many.read(asked))
    torch.testing.assert_close(
        torch.tensor(together["top_eigenvalue"].values), torch.tensor(alone["top_eigenvalue"].values),
        rtol=1e-3, atol=1e-6,
    )


def test_ray_that_is_missing_is_said(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(CaseError, match=r"attnscope\[ray\]"):
        list(many.measure(jobs(runs), ray="local"))
