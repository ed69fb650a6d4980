"""`attnscope curvature` as a person uses it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from attnscope import cli

CASE = """
import torch
from attnscope import Case
from reference.curvature_cases import TinyAttention, tiny_batch

def make_case():
    torch.manual_seed(0)
    model = TinyAttention()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return Case(model, [tiny_batch()], optimizer=optimizer, name="tiny")
"""
runner = CliRunner()


@pytest.fixture
def target(tmp_path: Path) -> str:
    path = tmp_path / "a_tiny_case.py"
    path.write_text(CASE)
    return f"{path}:make_case"


def test_text_page_and_figures(target: str, tmp_path: Path) -> None:
    page, figures = tmp_path / "page.html", tmp_path / "figures"
    found = runner.invoke(
        cli.app,
        ["curvature", target, "--budget", "2000", "--html", str(page), "--figures", str(figures), "--training", "4"],
    )
    assert found.exit_code == 0, found.output
    assert "The loss bends most in" in found.output
    assert "L0.Q, L0.K" in found.output
    assert "of its stability limit" in " ".join(found.output.split())
    text = page.read_text()
    assert all(f'id="{key}"' in text for key in ("block_map", "coupling", "parts", "spectral_density", "stability"))
    assert len(list(figures.glob("*.svg"))) == 9


def test_json_by_head(target: str) -> None:
    found = runner.invoke(
        cli.app, ["curvature", target, "--blocks", "head", "--only", "L0*", "--measure", "spectrum", "--format", "json"]
    )
    data = json.loads(found.stdout)
    assert data["readings"].keys() >= {"top_eigenvalue", "stability"}
    assert "coupling" not in data["readings"]
    assert "L0H1.Q" in data["blocks"]
    assert data["blocks"]["L0H1.Q"]["head"] == 1


def test_resume(target: str, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    again = ["curvature", target, "--measure", "coupling", "--resume", str(kept), "--format", "json"]
    first = json.loads(runner.invoke(cli.app, again).stdout)
    second = json.loads(runner.invoke(cli.app, again).stdout)
    assert (first["facts"]["resumed"], second["facts"]["resumed"]) == (False, True)
    # The precision was reached the first time, so nothing is left to do.
    assert second["readings"]["coupling"] == first["readings"]["coupling"]


def test_without_the_gauss_newton_part(target: str) -> None:
    found = runner.invoke(
        cli.app, ["curvature", target, "--measure", "spectrum", "--no-gauss-newton", "--format", "json"]
    )
    assert not {"norm_by_part", "query_key_by_part"} & json.loads(found.stdout)["readings"].keys()


def test_wrong_options(target: str) -> None:
    assert runner.invoke(cli.app, ["curvature", target, "--format", "yaml"]).exit_code == 2
    assert runner.invoke(cli.app, ["curvature", target, "--blocks", "neuron"]).exit_code == 2
    assert runner.invoke(cli.app, ["curvature", target, "--budget", "0"]).exit_code == 2
