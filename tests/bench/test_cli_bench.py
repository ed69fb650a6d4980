"""`attnscope bench`: what it prints, and what it says when it is asked for nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from attnscope.bench.plan import BenchCase
from attnscope.cli import app

ASK = CliRunner()


def test_list_prints_keys() -> None:
    asked = ASK.invoke(app, ["bench", "list", "--size", "smoke", "--select", "gpt_copying/fault"])
    assert asked.exit_code == 0, asked.output
    keys = asked.stdout.splitlines()
    assert any(key.startswith("gpt_copying/fault/future_leak/early:0/") for key in keys)
    assert all(BenchCase.of_key(key).key == key for key in keys)


def test_list_tells_what_is_left_out() -> None:
    asked = ASK.invoke(app, ["bench", "list", "--size", "smoke", "--left-out"])
    assert asked.exit_code == 0, asked.output
    assert "han_keyed/future_leak" in asked.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bench", "run", "--select", "nothing-has-this"], "bench list"),
        (["bench", "run", "--case", "nonsense"], "bench list"),
        (["bench", "report", "absent.parquet"], "attnscope bench run"),
    ],
)
def test_a_wrong_request_gets_the_next_step(arguments: list[str], said: str) -> None:
    asked = subprocess.run(
        [sys.executable, "-m", "attnscope", *arguments], capture_output=True, text=True, timeout=120
    )
    assert asked.returncode == 2, asked.stderr
    told = " ".join(asked.stderr.replace("│", " ").split())
    assert said in told
    assert "Traceback" not in asked.stderr
