"""Each metric against a naive twin that counts, on scores with many ties."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnscope.bench.metrics import (
    above,
    auprc,
    auroc,
    chance,
    gradients,
    latency,
    located,
    macro_f1,
    threshold,
)

SCORES = st.lists(st.integers(0, 4).map(float), min_size=1, max_size=8)


def naive_auroc(high: Sequence[float], low: Sequence[float]) -> float:
    return sum((a > b) + 0.5 * (a == b) for a in high for b in low) / (len(high) * len(low))


def naive_auprc(high: Sequence[float], low: Sequence[float]) -> float:
    total, before = 0.0, 0.0
    for bound in sorted({*high, *low}, reverse=True):
        hits, false = sum(a >= bound for a in high), sum(b >= bound for b in low)
        recall = hits / len(high)
        total += (recall - before) * hits / (hits + false)
        before = recall
    return total


@given(SCORES, SCORES)
def test_auroc_counts_pairs(high: list[float], low: list[float]) -> None:
    assert auroc(high, low) == pytest.approx(naive_auroc(high, low))
    assert auroc(high, low) + auroc(low, high) == pytest.approx(1.0)


@given(SCORES, SCORES)
def test_auprc_sums_over_thresholds(high: list[float], low: list[float]) -> None:
    assert auprc(high, low) == pytest.approx(naive_auprc(high, low))


def test_infinite_suspicions_are_the_most_suspicious() -> None:
    assert auroc([math.inf, math.inf], [1.0, 1e9]) == 1.0
    assert auprc([math.inf], [math.inf, 0.0]) == 0.5


def test_nothing_to_compare_is_not_a_number() -> None:
    assert math.isnan(auroc([], [1.0]))
    assert math.isnan(auprc([1.0], []))
    assert math.isnan(above([], 0.0))


@given(st.lists(st.integers(0, 9).map(float), min_size=1, max_size=60), st.sampled_from([0.0, 0.01, 0.05, 0.3]))
def test_a_threshold_keeps_its_rate_and_is_the_smallest_that_does(low: list[float], rate: float) -> None:
    bound = threshold(low, rate)
    assert sum(value > bound for value in low) <= rate * len(low) + 1e-9
    smaller = [value for value in low if value < bound]
    if smaller:
        assert sum(value > max(smaller) for value in low) > rate * len(low)


@st.composite
def ordered(draw: st.DrawFn) -> tuple[dict[str, float], set[str]]:
    n = draw(st.integers(2, 6))
    scores = {f"p{i}": float(draw(st.integers(0, 3))) for i in range(n)}
    truth = draw(st.sets(st.sampled_from(sorted(scores)), min_size=1, max_size=n - 1))
    return scores, truth


def naive_located(scores: dict[str, float], truth: set[str]) -> tuple[float, float, tuple[float, ...]]:
    """The mean over every order of the places that the scores allow."""
    ranks = []
    for order in permutations(scores):
        if all(scores[a] >= scores[b] for a, b in pairwise(order)):
            ranks.append(1 + min(order.index(place) for place in truth))
    tops = tuple(float(np.mean([rank <= k for rank in ranks])) for k in (1, 3, 5))
    return float(np.mean(ranks)), float(np.mean([1 / rank for rank in ranks])), tops


@settings(max_examples=60, deadline=None)
@given(ordered())
def test_ties_get_the_mean_over_all_orders(case: tuple[dict[str, float], set[str]]) -> None:
    found = located(*case)
    assert found is not None
    rank, reciprocal, tops = naive_located(*case)
    assert found.rank == pytest.approx(rank)
    assert found.reciprocal == pytest.approx(reciprocal)
    assert found.tops == pytest.approx(tops)
    assert found.exam == pytest.approx(rank / len(case[0]))


@pytest.mark.parametrize(("n", "right"), [(10, 1), (10, 3), (41, 2), (5, 4)])
def test_chance_is_the_closed_form(n: int, right: int) -> None:
    found = chance(n, right)
    assert found.tops[0] == pytest.approx(right / n)
    assert found.rank == pytest.approx((n + 1) / (right + 1))
    missed = math.comb(n - right, 3) / math.comb(n, 3)
    assert found.tops[1] == pytest.approx(1 - missed)


def test_nothing_to_find_and_nothing_to_miss_are_left_out() -> None:
    scores = {"a": 1.0, "b": 0.0}
    assert located(scores, set()) is None
    assert located(scores, {"elsewhere"}) is None
    assert located(scores, {"a", "b"}) is None


def test_any_of_the_labels_places_counts() -> None:
    found = located({"a": 3.0, "b": 2.0, "c": 1.0, "d": 0.0}, {"b", "d"})
    assert found is not None
    assert (found.rank, found.reciprocal, found.tops) == (2.0, 0.5, (0.0, 1.0, 1.0))


def test_what_is_not_named_comes_last_in_no_order() -> None:
    found = located({"a": 1.0, "b": -math.inf, "c": -math.inf}, {"c"})
    assert found is not None
    assert found.rank == 2.5


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["a", "b", "c", ""])), min_size=1, max_size=30))
def test_macro_f1_is_the_mean_of_precision_and_recall(pairs: list[tuple[str, str]]) -> None:
    values = []
    for item in {true for true, _ in pairs}:
        hits = sum(pair == (item, item) for pair in pairs)
        said = sum(pair[1] == item for pair in pairs)
        true = sum(pair[0] == item for pair in pairs)
        precision, recall = (hits / said if said else 0.0), hits / true
        values.append(2 * precision * recall / (precision + recall) if hits else 0.0)
    assert macro_f1(pairs, "abc") == pytest.approx(np.mean(values))


def test_a_false_alarm_costs_precision() -> None:
    assert macro_f1([("a", "a")], {"a"}) == 1.0
    assert macro_f1([("a", "a"), ("", "a")], {"a"}) == pytest.approx(2 / 3)


def test_latency_is_the_first_look_above_the_threshold() -> None:
    assert latency([(200, 9.0), (20, 1.0), (100, 5.0)], 4.0) == 100
    assert latency([(20, 1.0)], 4.0) is None


def test_cost_is_in_gradients_and_unknown_when_nothing_was_timed() -> None:
    assert gradients({"trace": 0.3, "coupling": 0.5}, ("trace", "coupling"), 0.1) == pytest.approx(8.0)
    assert gradients({}, (), 0.1) == 0.0
    assert math.isnan(gradients({}, ("trace",), 0.1))
    assert math.isnan(gradients({"trace": 0.3}, ("trace",), None))
