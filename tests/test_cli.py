"""The command line as a person uses it: output, exit codes, baselines, and errors that say the next step."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from attnscope import __version__, cli
from attnscope.errors import CaseError
from attnscope.factory import load_case

CASE = """
import torch
from torch import nn
from attnscope import Case


class Attention(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, hidden):
        scores = self.query(hidden) @ self.key(hidden).transpose(-2, -1) / 4.0
        allowed = torch.tril(torch.ones(hidden.shape[1], hidden.shape[1], dtype=torch.bool), diagonal=OFFSET)
        scores = scores.masked_fill(~allowed, float("-inf"))
        return scores.softmax(dim=-1) @ self.value(hidden)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        self.positions = nn.Embedding(12, 16)
        self.attention = Attention()
        self.classifier = nn.Linear(16, 20)

    def forward(self, tokens):
        hidden = self.embedding(tokens) + self.positions(torch.arange(tokens.shape[1]))
        return self.classifier(hidden + self.attention(hidden))


def make_case():
    torch.manual_seed(0)
    tokens = torch.randint(0, 20, (4, 9))
    return Case(Model(), [(tokens[:, :-1], tokens[:, 1:])], expects={"causal": True})


def with_argument(size):
    return make_case()


def raises():
    raise RuntimeError("no data here")


def wrong():
    return 3


number = 3
"""
runner = CliRunner()


@pytest.fixture
def healthy(tmp_path: Path) -> str:
    path = tmp_path / "healthy_model.py"
    path.write_text(CASE.replace("OFFSET", "0"))
    return f"{path}:make_case"


@pytest.fixture
def leaky(tmp_path: Path) -> str:
    path = tmp_path / "leaky_model.py"
    path.write_text(CASE.replace("OFFSET", "1"))
    return f"{path}:make_case"


def test_version_and_help() -> None:
    assert __version__ in runner.invoke(cli.app, ["--version"]).output
    listed = runner.invoke(cli.app, ["--help"]).output
    for command in ("check", "trace", "report", "demo", "explain", "rules", "doctor", "study"):
        assert command in listed


def test_trace_as_tree_and_as_json(healthy: str) -> None:
    assert "softmax over keys" in runner.invoke(cli.app, ["trace", healthy]).output
    anatomy = json.loads(runner.invoke(cli.app, ["trace", healthy, "--format", "json"]).output)
    assert anatomy["attentions"][0]["blocks"].keys() >= {"query", "key", "value"}


def test_check_is_silent_on_a_healthy_model_and_exits_with_0(healthy: str) -> None:
    found = runner.invoke(cli.app, ["check", healthy, "--effort", "light"])
    assert found.exit_code == 0, found.output
    assert "Nothing found" in found.output


def test_check_names_the_leak_its_line_and_exits_with_1(leaky: str, tmp_path: Path) -> None:
    saved, page = tmp_path / "diagnosis.json", tmp_path / "page.html"
    found = runner.invoke(
        cli.app, ["check", leaky, "--effort", "light", "--format", "json", "--save", str(saved), "--html", str(page)]
    )
    assert found.exit_code == 1
    finding = json.loads(saved.read_text())["findings"][0]
    assert (finding["kind"], finding["block_or_site"]) == ("future_leak", "L0.mask")
    assert "leaky_model.py" in finding["source"]["file"]
    assert "tril" in finding["source"]["text"] or "masked_fill" in finding["source"]["text"]
    assert page.stat().st_size < 3e6
    drawn = runner.invoke(cli.app, ["report", str(saved), "-o", str(tmp_path / "again.html")])
    assert drawn.exit_code == 0
    assert (tmp_path / "again.html").exists()


@pytest.mark.parametrize("format", ["sarif", "github", "text"])
def test_other_formats_name_the_line(leaky: str, format: str) -> None:
    output = runner.invoke(cli.app, ["check", leaky, "--effort", "light", "--format", format]).output
    assert "MSK101" in output
    assert "leaky_model.py" in "".join(output.split())


def test_fail_on_select_and_ignore(leaky: str) -> None:
    light = ["check", leaky, "--effort", "light"]
    assert runner.invoke(cli.app, [*light, "--fail-on", "never"]).exit_code == 0
    assert runner.invoke(cli.app, [*light, "--ignore", "MSK"]).exit_code == 0
    assert runner.invoke(cli.app, [*light, "--select", "future_leak"]).exit_code == 1


def test_baseline(leaky: str, tmp_path: Path) -> None:
    file = tmp_path / "baseline.json"
    light = ["check", leaky, "--effort", "light", "--baseline", str(file)]
    assert runner.invoke(cli.app, [*light, "--update-baseline"]).exit_code == 0
    assert runner.invoke(cli.app, light).exit_code == 0
    assert json.loads(file.read_text())["findings"]


def test_errors_are_one_message_with_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "half.json"
    broken.write_text('{"schema": 1, "findings": [')
    monkeypatch.setattr("sys.argv", ["attnscope", "report", str(broken)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert "not whole JSON" in said
    assert "Traceback" not in said


class TestFactory:
    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("make_cas", "did you mean make_case"),
            ("with_argument", "needs size; a factory takes no arguments"),
            ("raises", r"raised RuntimeError: no data here at .*healthy_model.py:\d+: raise RuntimeError"),
            ("wrong", "returned int; expected a Case"),
            ("number", "is a int, not a function"),
        ],
    )
    def test_a_bad_factory_is_named(self, healthy: str, name: str, said: str) -> None:
        with pytest.raises(CaseError, match=said):
            load_case(healthy.replace("make_case", name))

    def test_missing_file_and_bad_target(self, tmp_path: Path) -> None:
        with pytest.raises(CaseError, match="there is no file"):
            load_case(f"{tmp_path}/none.py:make_case")
        with pytest.raises(CaseError, match=re.escape("expected FILE.py:FACTORY")):
            load_case("train.py")
        with pytest.raises(CaseError, match="cannot import"):
            load_case("no_such_package:make_case")

    def test_a_file_that_raises_on_import_is_named_with_its_line(self, tmp_path: Path) -> None:
        (tmp_path / "bad_import.py").write_text("x = 1\nimport not_there_at_all\n")
        with pytest.raises(CaseError, match=r"bad_import.py:2"):
            load_case(f"{tmp_path}/bad_import.py:make_case")
