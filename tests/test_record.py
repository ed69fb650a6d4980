"""A run keeps what it was given: in memory, on disk, after a kill in the middle of a line."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import attnscope
from attnscope.errors import RecordError
from attnscope.readings import FAILED, Reading, missing
from attnscope.record import READINGS, Run, open_run


def reading(value: float, *, labels: tuple[str, ...] = ("good", "bad"), lens: str = "share") -> Reading:
    values = np.array([value + index for index in range(len(labels))])
    return Reading(lens, values, ("token",), "1", {"token": labels})


def test_what_is_appended_is_read_back(tmp_path: Path) -> None:
    run = Run(tmp_path / "a" / "run", name="mine")
    run.append(reading(1.0), step=0)
    run.append(reading(float("nan")), step=10)
    run.append(Reading("loss", np.array(0.5), (), "loss"), step=10)
    again = attnscope.open_run(tmp_path / "a" / "run")
    assert (again.name, again.steps, again.lenses) == ("mine", (0, 10), ("loss", "share"))
    for step in again.steps:
        for name, kept in again.at(step).items():
            assert kept.to_dict() == run.at(step)[name].to_dict()
            assert kept.step == step


def test_series_aligns_labels_that_come_and_go() -> None:
    run = Run()
    run.append(reading(1.0), step=0)
    run.append(reading(5.0, labels=("bad", "new")), step=5)
    run.append(missing("share", ("token",), "1", FAILED, "it broke"), step=9)
    found = run.series("share")
    assert found.dims == ("step", "token")
    assert found.coords == {"step": (0, 5, 9), "token": ("good", "bad", "new")}
    nan = np.nan
    assert np.array_equal(found.values, [[1, 2, nan], [nan, 5, 6], [nan, nan, nan]], equal_nan=True)
    assert found.at(step=5, token="new") == 6.0
    with pytest.raises(KeyError, match="it holds share"):
        run.series("entropy")


def test_series_of_failures_alone_says_why() -> None:
    run = Run()
    run.append(missing("share", ("token",), "1", FAILED, "it broke"), step=9)
    assert (run.series("share").status, run.series("share").note) == (FAILED, "it broke")


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(0, 400))
def test_a_kill_costs_the_half_written_line_alone(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("run")
    run = Run(folder, name="killed")
    for step in range(3):
        run.append(reading(float(step)), step)
    path = folder / READINGS
    raw = path.read_bytes()
    path.write_bytes(raw[: max(len(raw) - cut, 0)])
    whole_lines = path.read_bytes().count(b"\n")
    left = open_run(folder)
    assert len(left.steps) == max(whole_lines - 1, 0)
    left.append(reading(7.0), step=7)
    after = open_run(folder)
    assert after.steps == (*left.steps[: max(whole_lines - 1, 0)], 7)
    assert after.readings("share")[7].values[0] == 7.0
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_the_same_lens_at_the_same_step_is_replaced(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.append(reading(1.0), step=3)
    run.append(reading(2.0), step=3)
    assert open_run(tmp_path).series("share").values.tolist() == [[2.0, 3.0]]


def test_refuses_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"no run in .*readings\.jsonl"):
        open_run(tmp_path)
    (tmp_path / READINGS).write_text('{"attnscope_run": 99}\n')
    with pytest.raises(RecordError, match="not a run of version 1"):
        open_run(tmp_path)
    (tmp_path / READINGS).write_text('{"attnscope_run": 1, "name": ""}\nnonsense\n{}\n')
    with pytest.raises(RecordError, match="cannot be read as a run"):
        open_run(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="cannot write to"):
        Run(tmp_path / "file" / "below").append(reading(1.0), step=0)
    with pytest.raises(ValueError, match="has no step"):
        Run().append(reading(1.0))
