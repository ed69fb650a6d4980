"""Calibration against brute force, and that what is learnt is calibrated on what was held out."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnscope.bench.calibration import Claim, calibrated, calibration_error, monotone, reliability
from attnscope.diagnosis.calibration import Calibration


@settings(deadline=None)  # brute force takes its time on a busy machine
@given(st.lists(st.tuples(st.integers(0, 4).map(float), st.integers(0, 1).map(float)), min_size=1, max_size=8))
def test_isotonic_regression_is_the_best_monotone_step(points: list[tuple[float, float]]) -> None:
    x, y = np.array([p[0] for p in points]), np.array([p[1] for p in points])
    distinct, fitted = monotone(x, y)
    assert (np.diff(fitted) >= -1e-12).all()
    ours = sum((b - fitted[np.searchsorted(distinct, a)]) ** 2 for a, b in points)
    best = min(
        sum((b - levels[np.searchsorted(distinct, a)]) ** 2 for a, b in points)
        for levels in itertools.combinations_with_replacement(np.linspace(0, 1, 13), len(distinct))
    )
    assert ours <= best + 1e-9


def claims(count: int, seed: int = 0) -> list[Claim]:
    """Overconfident everywhere, and `liar` worse than the rest."""
    noise = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        kind = str(noise.choice(["honest", "liar"]))
        confidence = float(noise.choice([0.5, 0.7, 0.9, 1.0]))
        truth = confidence * (0.9 if kind == "honest" else 0.4)
        found.append(Claim(kind, confidence, bool(noise.random() < truth)))
    return found


def test_what_was_learnt_holds_on_what_was_held_out() -> None:
    learned, held = calibrated(claims(3000)), claims(3000, seed=1)
    right = np.array([claim.right for claim in held], dtype=float)
    stated = np.array([claim.confidence for claim in held])
    learnt = np.array([learned.probability(claim.kind, claim.confidence) for claim in held])
    assert calibration_error(stated, right) > 0.2
    assert calibration_error(learnt, right) < 0.05


def test_more_confidence_never_means_less_probability() -> None:
    learned = calibrated(claims(500))
    values = [learned.probability("liar", confidence) for confidence in np.linspace(0, 1, 50)]
    assert (np.diff(values) >= -1e-12).all()
    assert min(values) >= 0.0
    assert max(values) <= 1.0


def test_a_kind_that_was_never_seen_has_the_curve_of_all() -> None:
    learned = calibrated(claims(500))
    assert learned.probability("new", 0.9) == learned.shared(0.9)


def test_nothing_learnt_leaves_confidences_alone() -> None:
    assert calibrated([]).probability("any", 0.73) == 0.73


def test_it_is_plain_data() -> None:
    learned = calibrated(claims(100))
    assert Calibration.from_dict(json.loads(json.dumps(learned.to_dict()))) == learned


def test_the_error_is_the_weighed_distance_of_bins() -> None:
    probabilities, right = np.array([0.9, 0.9, 0.9, 0.1]), np.array([1.0, 0.0, 1.0, 0.0])
    assert calibration_error(probabilities, right) == pytest.approx(0.75 * abs(0.9 - 2 / 3) + 0.25 * 0.1)
    assert sum(item.count for item in reliability(probabilities, right)) == 4
    assert reliability(np.array([1.0]), np.array([1.0]))[0].high == 1.0
    assert math.isnan(calibration_error(np.zeros(0), np.zeros(0)))
