"""The results that come with the package: the docs say what they hold, and every row names a case that can be rerun."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from attnscope.bench.plan import BenchCase
from attnscope.bench.row import Row
from attnscope.bench.store import read_columns
from attnscope.bench.tables import tables

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "src" / "attnscope" / "bench" / "results_small.parquet"


@pytest.fixture(scope="module")
def shipped() -> tuple[list[Row], Mapping[str, str]]:
    return read_columns(SHIPPED)


def test_docs_and_what_is_learnt_are_made_from_the_results(shipped: tuple[list[Row], Mapping[str, Any]]) -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import bench_docs
    finally:
        sys.path.pop(0)
    for path, text in {**bench_docs.pages(tables(*shipped)), **bench_docs.learnt(*shipped)}.items():
        held = (ROOT / path).read_text(encoding="utf-8")
        assert held == text, f"{path} is older than the results: run python benchmarks/bench_docs.py"
        assert "<!--" not in text
        assert "{" not in text or not path.endswith("hessian-fault-diagnosis.md")


def test_rows_name_cases_and_their_environment(shipped: tuple[list[Row], Mapping[str, str]]) -> None:
    rows, about = shipped
    assert {"torch", "python", "attnscope", "size"} <= set(about)
    for row in rows:
        assert BenchCase.of_key(row.key).key == row.key
        assert row.status in ("ok", "not applicable"), (row.key, row.why)
