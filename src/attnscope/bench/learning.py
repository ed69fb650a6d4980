"""Learning: what training folds teach the combination. Small convex problems, each solved the same way every time.

The order of places is a conditional logit: of all places of a row, the chance that a right one comes first grows
with the weighed sum of what is odd there. The suspicion is a logistic regression. No weight of a reading is
negative: being odd never clears a place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from attnscope.bench.calibration import Claim, calibrated
from attnscope.bench.learned import DETECTION, FAMILIES, FINDING, PLACES, SITE, Learned
from attnscope.bench.places import at_level, truth
from attnscope.bench.rankers._families import UsualFamilies
from attnscope.bench.rankers._findings import graver
from attnscope.bench.rankers.combination import Combination
from attnscope.bench.row import FAULT, Row

Array = npt.NDArray[np.float64]
Lesson = tuple[Row, UsualFamilies]
RIDGE = 1e-3
STEPS = 300
DETECTION_STEPS = 5000  # of a small problem whose weights differ much in size


def learn(lessons: Sequence[Lesson], about: Mapping[str, Any], told: Sequence[Row] | None = None) -> Learned:
    """Learns from labelled rows.

    Args:
        lessons: rows of training folds with what is usual for their subjects.
        about: said in the file.
        told: rows of training folds whose findings calibrate the confidences; those of the lessons when None. A
            planted mistake is one whether or not it changed the task, so there may be more of them.

    Returns:
        what was learnt; what there are no rows for stays as it is before learning.
    """
    told = [row for row, _ in lessons] if told is None else told
    calibration = calibrated([claim for row in told for claim in claims(row)])
    base = Learned(calibration=calibration)
    places = _places([lesson for lesson in lessons if lesson[0].arm == FAULT], base) or base.places
    sure = Learned(places=places, calibration=calibration)
    detection = _detection(lessons, sure) or base.detection
    return Learned(places, detection, calibration, about)


def claims(row: Row) -> list[Claim]:
    """The warnings and errors of a row, and whether each is right: its kind and its place both name the fault."""
    right = truth(row, "place")
    found = graver(row.findings)
    homes = at_level(row, "place", [finding.place for finding in found])
    return [
        Claim(
            finding.kind,
            finding.confidence,
            row.arm == FAULT
            and finding.kind in row.recognised_as
            and (finding.place in row.places or home in right),
        )
        for finding, home in zip(found, homes, strict=True)
    ]


def _places(lessons: Sequence[Lesson], base: Learned) -> dict[str, float] | None:
    """Weights of the conditional logit; None without a row that has something to find."""
    blocks, right, starts = [], [], []
    total = 0
    for row, usual in lessons:
        wanted = truth(row, "place")
        if not wanted:
            continue
        places, features = usual.features(row)
        named = Combination(learned=base, usual=usual).named(row)
        kept = [index for index, place in enumerate(places) if place in {*row.blocks, *row.sites}]
        said = np.array([[named.get(places[index], 0.0)] for index in kept])
        blocks.append(np.hstack([said, features[kept]]))
        right.append(np.array([places[index] in wanted for index in kept]))
        starts.append(total)
        total += len(kept)
    if not blocks:
        return None
    x, is_right, edges = np.vstack(blocks), np.concatenate(right), np.array(starts)
    sizes = np.diff([*starts, total])

    def value(weights: Array) -> tuple[float, Array]:
        scores = x @ weights
        top = np.repeat(np.maximum.reduceat(scores, edges), sizes)
        exponentials = np.exp(scores - top)
        everything = np.add.reduceat(exponentials, edges)
        # The floor keeps a row that is hopelessly wrong from being all that counts.
        hits = np.maximum(np.add.reduceat(np.where(is_right, exponentials, 0.0), edges), 1e-12)
        among_all = exponentials / np.repeat(everything, sizes)
        among_right = np.where(is_right, exponentials, 0.0) / np.repeat(hits, sizes)
        loss = float(np.log(everything / hits).mean())
        return loss, x.T @ (among_all - among_right) / len(edges)

    names = (FINDING, *FAMILIES, SITE)
    weights = _descended(value, np.array([PLACES[name] for name in names]), np.array([name != SITE for name in names]))
    return dict(zip(names, weights.tolist(), strict=True))


def _detection(lessons: Sequence[Lesson], learned: Learned) -> dict[str, float] | None:
    """Weights of the suspicion, faulty and healthy rows weighing the same in sum; None when one side is missing."""
    faulty = np.array([row.arm == FAULT for row, _ in lessons], dtype=bool)
    if not faulty.any() or faulty.all():
        return None
    evidence = [Combination(learned=learned, usual=usual).evidence(row) for row, usual in lessons]
    x = np.hstack([np.array(evidence), np.ones((len(evidence), 1))])
    share = np.where(faulty, 0.5 / faulty.sum(), 0.5 / (~faulty).sum())
    sign = np.where(faulty, 1.0, -1.0)

    def value(weights: Array) -> tuple[float, Array]:
        margin = sign * (x @ weights)
        wrong = np.exp(-np.logaddexp(0.0, margin))  # chance of the other answer
        return float((share * np.logaddexp(0.0, -margin)).sum()), -x.T @ (share * sign * wrong)

    positive = np.array([name != "intercept" for name in DETECTION])
    weights = _descended(value, np.array(list(DETECTION.values())), positive, steps=DETECTION_STEPS)
    return dict(zip(DETECTION, weights.tolist(), strict=True))


def _descended(
    value: Callable[[Array], tuple[float, Array]], prior: Array, positive: npt.NDArray[np.bool_], steps: int = STEPS
) -> Array:
    """Projected gradient descent with a step that grows until it fails, on the loss and a small pull to the prior."""

    def pulled(weights: Array) -> tuple[float, Array]:
        loss, gradient = value(weights)
        away = weights - prior
        return loss + 0.5 * RIDGE * float(away @ away), gradient + RIDGE * away

    weights, step = prior, 1.0
    loss, gradient = pulled(weights)
    for _ in range(steps):
        moved = weights - step * gradient
        moved = np.where(positive, np.maximum(moved, 0.0), moved)
        new, slope = pulled(moved)
        if new > loss - 1e-4 * float(gradient @ (weights - moved)):
            step *= 0.4
            if step < 1e-9:
                break
            continue
        done = loss - new < 1e-9
        weights, loss, gradient = moved, new, slope
        step *= 1.6
        if done:
            break
    return weights
