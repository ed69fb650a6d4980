"""Metrics: detection, localisation, kind. All exact; ties get the mean over the orders that they allow."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
TOPS = (1, 3, 5)


def auroc(positive: npt.ArrayLike, negative: npt.ArrayLike) -> float:
    """The chance that a faulty row is more suspicious than a healthy one, ties half; NaN when one side is empty."""
    high, low = np.asarray(positive, dtype=float), np.asarray(negative, dtype=float)
    if not high.size or not low.size:
        return math.nan
    ordered = np.sort(low)
    below, up_to = np.searchsorted(ordered, high, "left"), np.searchsorted(ordered, high, "right")
    return float((below + up_to).sum() / (2.0 * high.size * low.size))


def auprc(positive: npt.ArrayLike, negative: npt.ArrayLike) -> float:
    """Average precision: over thresholds, precision times the recall gained; equal scores are taken together."""
    high, low = np.asarray(positive, dtype=float), np.asarray(negative, dtype=float)
    if not high.size or not low.size:
        return math.nan
    scores = np.concatenate([high, low])
    right = np.concatenate([np.ones(high.size), np.zeros(low.size)])
    levels, inverse = np.unique(-scores, return_inverse=True)
    gained = np.bincount(inverse, weights=right, minlength=levels.size)
    named = np.bincount(inverse, minlength=levels.size)
    precision = np.cumsum(gained) / np.cumsum(named)
    return float((precision * gained).sum() / high.size)


def threshold(negative: npt.ArrayLike, rate: float) -> float:
    """The smallest suspicion above which at most this share of healthy rows lies; infinite without any."""
    low = np.sort(np.asarray(negative, dtype=float))[::-1]
    if not low.size:
        return math.inf
    return float(low[min(math.floor(rate * low.size + 1e-9), low.size - 1)])


def above(scores: npt.ArrayLike, bound: float) -> float:
    """The share of rows above a threshold; NaN without any."""
    values = np.asarray(scores, dtype=float)
    return float((values > bound).mean()) if values.size else math.nan


@dataclass(frozen=True)
class Located:
    """How well one row's places were ordered; expectations over the orders that ties allow.

    Attributes:
        n: candidates.
        right: candidates that name the fault's place.
        rank: of the first right one.
        reciprocal: of that rank.
        tops: chance that a right one is among the first 1, 3, 5.
    """

    n: int
    right: int
    rank: float
    reciprocal: float
    tops: tuple[float, ...]

    @property
    def exam(self) -> float:
        """The share of candidates that are looked at until the first right one."""
        return self.rank / self.n


def located(scores: Mapping[str, float], truth: Collection[str]) -> Located | None:
    """How well scores put the true places first.

    Args:
        scores: every candidate; minus infinity for what a ranker does not name.
        truth: the candidates that are right.

    Returns:
        None when there is nothing to find (no candidate is right) or nothing to miss (all are).
    """
    right = [scores[place] for place in truth if place in scores]
    if not right or len(right) == len(scores):
        return None
    best = max(right)
    values = list(scores.values())
    ahead = sum(value > best for value in values)
    tied = sum(value == best for value in values)
    return _expected(len(values), len(right), ahead, tied, sum(value == best for value in right))


def chance(n: int, right: int) -> Located:
    """What an order drawn at random gives: Top-1 is right / n, the first right rank (n + 1) / (right + 1)."""
    return _expected(n, right, 0, n, right)


def _expected(n: int, right: int, ahead: int, tied: int, right_tied: int) -> Located:
    """The first right place is among `tied` equal ones, of which `right_tied` are right, behind `ahead` others."""
    none_so_far = 1.0  # chance that the first j of the tied hold no right one
    reciprocal, tops = 0.0, [0.0] * len(TOPS)
    for j in range(1, tied - right_tied + 2):
        left = tied - (j - 1)
        here = none_so_far * right_tied / left
        reciprocal += here / (ahead + j)
        for index, top in enumerate(TOPS):
            if ahead + j <= top:
                tops[index] += here
        none_so_far *= 1.0 - right_tied / left
    return Located(n, right, ahead + (tied + 1) / (right_tied + 1), reciprocal, tuple(tops))


def macro_f1(pairs: Sequence[tuple[Hashable, Hashable]], classes: Collection[Hashable]) -> float:
    """The mean F1 over classes.

    Args:
        pairs: (true, said) of each row; rows of other classes count where they are said to be of one of these.
        classes: over which the mean is taken; those that no row has are left out.
    """
    present = sorted({true for true, _ in pairs} & set(classes), key=str)
    if not present:
        return math.nan
    return float(np.mean([_f1(pairs, item) for item in present]))


def _f1(pairs: Sequence[tuple[Hashable, Hashable]], item: Hashable) -> float:
    hits = sum(true == item and said == item for true, said in pairs)
    true_count = sum(true == item for true, _ in pairs)
    said_count = sum(said == item for _, said in pairs)
    return 2.0 * hits / (true_count + said_count) if true_count + said_count else 0.0


def latency(looks: Sequence[tuple[int, float]], bound: float) -> int | None:
    """The first step at which the suspicion is above the threshold; None when it never is.

    Args:
        looks: (step, suspicion) of one run; the fault is there from step 0.
        bound: the threshold.
    """
    return next((step for step, suspicion in sorted(looks) if suspicion > bound), None)


def gradients(cost: Mapping[str, float], names: Sequence[str], gradient_seconds: float | None) -> float:
    """What readings cost in gradients of the same batch; NaN when none of them was timed.

    Args:
        cost: name -> seconds; a reading that does not apply to the model has none and costs nothing.
        names: what is needed; nothing costs nothing.
        gradient_seconds: of one gradient.
    """
    if not names:
        return 0.0
    timed = [cost[name] for name in names if name in cost]
    if not gradient_seconds or not timed:
        return math.nan
    return sum(timed) / gradient_seconds
