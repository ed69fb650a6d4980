"""Calibration: from a finding's kind and stated confidence to the share of such findings that are right.

One monotone curve for all kinds (pool-adjacent-violators), and for each kind how many more of its findings were
right than the curve says, shrunk towards none. Learnt from findings of training folds, kept as plain numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attnscope.diagnosis.calibration import Calibration

Array = npt.NDArray[np.float64]

BINS = 10
BELIEVED = 4  # findings that what rules state is worth, at each confidence


@dataclass(frozen=True)
class Claim:
    """A finding of a bench case, and whether it is right: its kind and its place both name the fault."""

    kind: str
    confidence: float
    right: bool


def calibrated(claims: Sequence[Claim]) -> Calibration:
    """What the findings of training folds teach; without any, confidences are left as they are."""
    if not claims:
        return Calibration()
    stated = np.array([claim.confidence for claim in claims])
    right = np.array([claim.right for claim in claims], dtype=float)
    believed = np.repeat(np.unique(stated), BELIEVED)  # three findings of one kind are not what a confidence is worth
    confidences, precisions = monotone(np.concatenate([stated, believed]), np.concatenate([right, believed]))
    curve = Calibration(tuple(confidences.tolist()), tuple(precisions.tolist()))
    beyond: dict[str, tuple[int, float]] = {}
    for claim in claims:
        count, more = beyond.get(claim.kind, (0, 0.0))
        beyond[claim.kind] = count + 1, more + claim.right - curve.shared(claim.confidence)
    return Calibration(curve.confidences, curve.precisions, dict(sorted(beyond.items())))


def monotone(x: Array, y: Array) -> tuple[Array, Array]:
    """The non-decreasing function of x that is nearest to y in squares, at the distinct x: isotonic regression."""
    distinct, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    means = np.bincount(inverse, weights=y) / counts
    pools: list[list[float]] = []  # mean, weight, how many distinct x
    for mean, weight in zip(means.tolist(), counts.tolist(), strict=True):
        pools.append([mean, float(weight), 1])
        while len(pools) > 1 and pools[-2][0] >= pools[-1][0]:
            last, before = pools.pop(), pools.pop()
            total = last[1] + before[1]
            pools.append([(last[0] * last[1] + before[0] * before[1]) / total, total, last[2] + before[2]])
    fitted = np.concatenate([np.full(int(width), mean) for mean, _, width in pools])
    return distinct.astype(float), fitted


@dataclass(frozen=True)
class Reliability:
    """One bin of a reliability curve: findings stated about this confidently, and how many of them were right."""

    low: float
    high: float
    count: int
    confidence: float
    precision: float


def reliability(probabilities: Array, right: Array, bins: int = BINS) -> tuple[Reliability, ...]:
    """The bins of equal width that hold any finding."""
    numbers = np.clip((probabilities * bins).astype(int), 0, bins - 1)
    return tuple(
        Reliability(
            low=number / bins,
            high=(number + 1) / bins,
            count=int((numbers == number).sum()),
            confidence=float(probabilities[numbers == number].mean()),
            precision=float(right[numbers == number].mean()),
        )
        for number in np.unique(numbers).tolist()
    )


def calibration_error(probabilities: Array, right: Array, bins: int = BINS) -> float:
    """ECE: the mean distance of confidence and precision over bins, each as heavy as its findings; NaN without any."""
    found = reliability(probabilities, right, bins)
    total = sum(item.count for item in found)
    if not total:
        return float("nan")
    return sum(item.count * abs(item.confidence - item.precision) for item in found) / total
