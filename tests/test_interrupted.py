"""Ctrl-C in the middle of a diagnosis: what is known is told, and the model is as it was."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from attnscope.case import Case
from attnscope.cli import app
from attnscope.examine import diagnose
from attnscope.models.gpt import Gpt


class Pressed(Gpt):
    """Presses Ctrl-C in one of its forward passes."""

    def __init__(self, after: int) -> None:
        super().__init__(n_tokens=11, n_positions=8, d_model=12, n_heads=3)
        self.passes = [0]
        self.after = after

    def forward(self, input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        passes = PASSES[id(self)] = PASSES.get(id(self), 0) + 1  # outside the model, where nothing is put back
        if passes == self.after:
            os.kill(os.getpid(), signal.SIGINT)
        return super().forward(input_ids, *args, **kwargs)


PASSES: dict[int, int] = {}


def make(after: int) -> Case:
    torch.manual_seed(0)
    model = Pressed(after)
    PASSES.pop(id(model), None)
    ids = torch.randint(1, 11, (4, 8))
    # The labels are the input itself: one mistake that is seen early.
    return Case(model, [(ids, ids)], loss=unshifted, expects={"causal": True})


def unshifted(output: Any, batch: Any) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(output.flatten(0, 1), batch[1].flatten())


@pytest.mark.parametrize("after", [10, 25, 40])
def test_what_is_known_is_told(after: int) -> None:
    case = make(after)
    before = {name: value.clone() for name, value in case.model.state_dict().items()}
    diagnosis = diagnose(case)
    assert diagnosis.interrupted
    assert diagnosis.readings
    assert "stopped by the user before it ran" in diagnosis.skipped.values()
    for name, value in case.model.state_dict().items():
        assert torch.equal(value, before[name])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    more = diagnose(make(after + 12))
    assert len(more.readings) > len(diagnosis.readings)


def test_the_command_prints_what_is_known(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(Path(__file__).read_text(encoding="utf-8") + "\n\ndef make_case():\n    return make(40)\n")
    page = tmp_path / "report.html"
    done = CliRunner().invoke(app, ["check", f"{file}:make_case", "--html", str(page)])
    assert "Interrupted: what follows is right" in done.output
    assert done.exit_code == 130
    assert page.exists()
