"""The page of the subjects is that of the stored results, and every healthy seed keeps its subject's promise."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from attnscope import catalogue

ROOT = Path(__file__).parents[2]
RESULTS: dict[str, dict[str, Any]] = json.loads((ROOT / "benchmarks/bench_subjects.json").read_text(encoding="utf-8"))


def test_the_page_shows_the_stored_results() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from bench_subjects import page
    finally:
        sys.path.pop(0)
    assert (ROOT / "docs/bench_subjects.md").read_text(encoding="utf-8") == page(RESULTS)


@pytest.mark.parametrize("name", sorted(RESULTS))
def test_every_seed_keeps_the_promise(name: str) -> None:
    found = RESULTS[name]
    assert len(found["qualities"]) == 6
    assert min(found["qualities"]) >= catalogue.load("subjects", name).healthy_quality


def test_every_subject_was_measured() -> None:
    assert set(RESULTS) == set(catalogue.names("subjects"))
