"""Nothing is run twice, nothing is lost, and processes and Ray give the same rows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from attnscope.bench import run as runs
from attnscope.bench.plan import SIZES, BenchCase, plan
from attnscope.bench.row import Row
from attnscope.bench.run import run
from attnscope.bench.store import Store, read_columns
from attnscope.errors import CatalogueError, RecordError

QUICK = [BenchCase("han_keyed", seed=seed, moment=0.02) for seed in (0, 1)]
MEASURED = ("quality", "loss", "block_values", "layer_values", "pair_values", "findings", "blocks")


def test_a_key_says_all_about_its_case() -> None:
    case = BenchCase("han_keyed", "fault", "missing_scale", "late", 1, 0.3, 4, 0.5)
    assert BenchCase.of_key(case.key) == case
    assert BenchCase.of_key(QUICK[0].key) == QUICK[0]
    with pytest.raises(ValueError, match="bench list"):
        BenchCase.of_key("nonsense")


def test_the_plan_holds_no_case_twice_and_says_what_it_leaves_out() -> None:
    made = plan(SIZES["smoke"])
    keys = [case.key for case in made.cases]
    assert len(keys) == len(set(keys))
    assert {case.arm for case in made.cases} == {"healthy", "fault", "control"}
    assert all(why for why in made.left_out.values())
    # a HAN has no causal mask, so nothing can leak in it
    assert any(name.startswith("han_keyed/future_leak") for name in made.left_out)
    with pytest.raises(CatalogueError, match="no subject"):
        plan(replace(SIZES["smoke"], subjects=("no_such",)))


def test_what_has_a_row_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fake(cases: object, workers: int) -> object:
        for case in cases:  # type: ignore[attr-defined]
            asked.append(case.key)
            yield Row(case.key, case.subject, "han", "keyed", case.arm, seed=case.seed)
            if len(asked) == 1:
                raise KeyboardInterrupt

    monkeypatch.setattr(runs, "in_processes", fake)
    first = run(QUICK, tmp_path)
    assert (first.done, first.left, first.interrupted) == (1, 1, True)
    assert len(read_columns(first.results)[0]) == 1  # Ctrl-C leaves a file of results
    second = run(QUICK, tmp_path)
    assert (second.done, second.before, second.left, second.interrupted) == (1, 1, 0, False)
    assert asked == [case.key for case in QUICK]
    assert {row.key for row in read_columns(second.results)[0]} == set(asked)


def test_two_runs_in_one_folder_do_not_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(cases: object, workers: int) -> object:
        with pytest.raises(RecordError, match="another run"):
            run(QUICK, tmp_path)
        yield from ()

    monkeypatch.setattr(runs, "in_processes", fake)
    run(QUICK, tmp_path)


@pytest.mark.slow
def test_processes_and_ray_give_the_same_rows(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is an optional extra")
    here = run(QUICK, tmp_path / "processes", workers=2)
    there = run(QUICK, tmp_path / "ray", workers=2, ray="local")
    assert here.left == there.left == 0
    rows, others = ({row.key: row for row in read_columns(each.results)[0]} for each in (here, there))
    assert set(rows) == set(others) == {case.key for case in QUICK}
    for key, row in rows.items():
        assert row.status == "ok", row.why
        mine, its = row.to_dict(), others[key].to_dict()
        assert {name: mine[name] for name in MEASURED} == {name: its[name] for name in MEASURED}


@pytest.mark.slow
def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    """The whole process group is killed without warning after its first row."""
    cases = [BenchCase("han_keyed", seed=seed, moment=0.02) for seed in range(4)]
    program = (
        "from attnscope.bench.plan import BenchCase\nfrom attnscope.bench.run import run\n"
        "if __name__ == '__main__':\n"
        f"    run([BenchCase('han_keyed', seed=s, moment=0.02) for s in range(4)], {str(tmp_path)!r}, workers=1)\n"
    )
    script = tmp_path / "script.py"
    script.write_text(program)
    started = subprocess.Popen([sys.executable, str(script)], start_new_session=True)
    store = Store(tmp_path)
    deadline = time.monotonic() + 120
    while not store.rows() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    before = store.rows()
    assert before
    outcome = run(cases, tmp_path, workers=2)
    assert outcome.before == len(before)
    assert outcome.left == 0
    after = {row.key: row for row in Store(tmp_path).rows()}
    assert set(after) == {case.key for case in cases}
    for row in before:  # what was there is there unchanged
        assert after[row.key].to_dict() == row.to_dict()
