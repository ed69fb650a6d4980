"""The report: all three formats, from a whole benchmark and from next to nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest

import bench_rows
from attnscope.bench.page import page
from attnscope.bench.report import FORMATS, markdown, report_text
from attnscope.bench.row import Row
from attnscope.bench.tables import tables


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return bench_rows.bench(subjects=bench_rows.SUBJECTS[:3], layers=(0, 2))


@pytest.fixture(scope="module")
def data(rows: list[Row]) -> dict[str, object]:
    return tables(rows, {"size": "synthetic"})


def entry(data: dict, ranker: str, **wanted: str) -> dict:
    wanted = {"setting": "unpaired", "stratum": "killed", "class": "all", **wanted}
    return next(
        item
        for item in data["leaderboard"]
        if item["ranker"] == ranker and all(item[name] == value for name, value in wanted.items())
    )


def test_the_combination_is_ahead_of_guessing_and_of_raw_curvature(data: dict) -> None:
    ours, raw = entry(data, "combination")["metrics"], entry(data, "top_eigenvalue")["metrics"]
    guess = entry(data, "(chance)")["metrics"]
    assert ours["mrr"]["low"] > raw["mrr"]["high"]
    assert ours["mrr"]["low"] > guess["mrr"]["high"]
    assert ours["auroc"]["value"] > 0.95
    assert guess["auroc"]["value"] == 0.5


def test_guessing_at_random_is_near_what_guessing_is_expected_to_be(data: dict) -> None:
    drawn, expected = entry(data, "random_order")["metrics"], entry(data, "(chance)")["metrics"]
    for name in ("top_1", "mrr", "layer_top_1", "head_top_1"):
        assert drawn[name]["value"] == pytest.approx(expected[name]["value"], abs=0.12)


def test_settings_and_strata_are_apart(data: dict) -> None:
    kept = {(item["setting"], item["stratum"]) for item in data["leaderboard"]}
    assert kept == {(setting, stratum) for setting in ("unpaired", "paired") for stratum in ("killed", "survived")}
    assert entry(data, "combination", stratum="survived")["rows"] == 3 * 6 * 2
    assert entry(data, "combination")["rows"] == 3 * 6 * 2 * 4


def test_raw_curvature_fails_the_rescaling_and_scale_free_does_not(data: dict) -> None:
    rescaled = next(item for item in data["controls"] if item["control"] == "query_key_rescaled")
    assert rescaled["alarms"]["top_eigenvalue"] >= 0.5
    assert rescaled["alarms"]["relative_trace"] <= 0.2
    assert (rescaled["errors"], rescaled["warnings"]) == (0, 0)


def test_the_hessian_wins_and_loses_where_it_was_made_to(data: dict) -> None:
    found = {
        (item["fault"], item["hessian"]): item for item in data["hessian_by_fault"] if item["setting"] == "unpaired"
    }
    assert found["frozen_key", "relative_trace"]["mrr"]["high"] < 0
    assert found["missing_scale", "relative_trace"]["mrr"]["low"] > 0


def test_misses_name_the_command_that_runs_them_again(data: dict) -> None:
    assert data["misses"]
    for miss in data["misses"]:
        assert miss["command"] == f"attnscope bench run --case {miss['key']}"
        assert miss["detected"] is False or miss["rank"] > 1


def test_latency_is_told_for_runs_that_were_looked_at_early(data: dict) -> None:
    found = {(item["ranker"], item["class"]): item for item in data["latency"]}
    assert found["diagnosis", "I"]["median_step"] == 20


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("format", FORMATS)
def test_next_to_nothing_is_told_and_not_crashed_on(rows: list[Row], format: str, count: int) -> None:
    assert report_text(rows[:count], format)


def test_a_missing_column_is_told(rows: list[Row]) -> None:
    without = [
        replace(row, block_values={k: v for k, v in row.block_values.items() if k != "block_trace"}, cost={})
        for row in rows[:60]
    ]
    assert "No row holds block_trace, so trace says nothing." in report_text(without, "markdown")


def test_failed_rows_are_counted_with_their_reason(rows: list[Row]) -> None:
    failed = replace(rows[0], key="other", status="failed", why="RuntimeError: out of luck")
    text = report_text([failed, *rows[:3]], "markdown")
    assert "1 rows are failed: RuntimeError: out of luck (1)." in text


def test_the_json_has_no_nan_and_is_what_the_tables_hold(rows: list[Row]) -> None:
    found = json.loads(report_text(rows[:40], "json"), parse_constant=lambda name: pytest.fail(name))
    assert found["counts"]["rows"] == 40


def test_text_of_others_is_inert_on_the_page(rows: list[Row]) -> None:
    evil = "<script>alert(1)</script>"
    renamed = [replace(row, subject=evil) for row in rows if row.subject == rows[0].subject]
    data = tables(renamed, {evil: evil})
    text = page(data)
    assert evil not in text
    assert "&lt;script&gt;" in text
    assert "|" in markdown(data)


def test_an_unknown_format_is_refused(rows: list[Row]) -> None:
    with pytest.raises(ValueError, match="markdown"):
        report_text(rows[:1], "pdf")


def test_the_report_needs_no_torch() -> None:
    code = "import sys, attnscope.bench.report; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
