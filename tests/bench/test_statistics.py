"""Intervals and tests: coverage, pairing, Holm, and the folds they are used on."""

from __future__ import annotations

import math

import numpy as np
import pytest

import bench_rows
from attnscope.bench.folds import SPLITS, family, folds
from attnscope.bench.statistics import clustered, holm, paired_p


def test_clusters_weigh_the_same_whatever_their_size() -> None:
    found = clustered([1.0] * 99 + [0.0], ["big"] * 99 + ["small"])
    assert found.value == 0.5
    assert (found.clusters, found.rows) == (2, 100)
    assert not found.bounded


def test_rows_of_one_subject_do_not_narrow_the_interval() -> None:
    noise = np.random.default_rng(0)
    means = noise.normal(size=8)
    few = clustered(means, range(8))
    many = clustered(np.repeat(means, 50), np.repeat(np.arange(8), 50).tolist())
    assert (many.low, many.high) == pytest.approx((few.low, few.high))


def test_intervals_cover_about_as_often_as_they_say() -> None:
    noise = np.random.default_rng(1)
    hits = 0
    for trial in range(200):
        found = clustered(noise.normal(0.3, 1.0, 12), range(12), draws=400, seed=trial)
        hits += found.low <= 0.3 <= found.high
    assert 0.86 <= hits / 200 <= 0.98  # percentile intervals of twelve clusters are a little narrow


def test_what_is_not_a_number_is_left_out() -> None:
    found = clustered([1.0, math.nan, 3.0], ["a", "b", "c"])
    assert (found.value, found.clusters) == (2.0, 2)
    assert clustered([math.nan], ["a"]).clusters == 0


def test_paired_differences_are_tested_by_flipping_whole_subjects() -> None:
    subjects = [name for name in "abcdef" for _ in range(10)]
    assert paired_p(np.ones(60), subjects) == pytest.approx(2 / 64)
    assert paired_p(np.tile([1.0, -1.0], 30), subjects) == 1.0


def test_holm_by_hand() -> None:
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": math.nan})
    assert (found["a"], found["c"], found["b"]) == pytest.approx((0.03, 0.06, 0.06))
    assert math.isnan(found["d"])


@pytest.mark.parametrize("split", SPLITS)
def test_every_row_is_held_out_once_and_never_in_its_own_training(split: str) -> None:
    rows = bench_rows.bench(layers=(0, 1))
    parts = folds(rows, split)
    assert sorted(index for part in parts for index in part.test) == list(range(len(rows)))
    for part in parts:
        assert not set(part.train) & set(part.test)
        assert len(part.train) + len(part.test) == len(rows)


def test_a_held_out_kind_was_never_seen_and_has_healthy_rows_beside_it() -> None:
    rows = bench_rows.bench(layers=(0, 1))
    for part in folds(rows, "kind"):
        seen = {family(rows[i]) for i in part.train if rows[i].arm == "fault"}
        asked = {family(rows[i]) for i in part.test if rows[i].arm == "fault"}
        assert asked
        assert not seen & asked
        assert any(rows[i].arm == "healthy" for i in part.train)
        assert any(rows[i].arm == "healthy" for i in part.test)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="subject, kind, where"):
        folds([], "seed")
