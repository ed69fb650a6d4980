"""Statistics: intervals and tests when rows of the same subject are not independent."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attnscope.bench.kill import sign_flip

DRAWS = 2000
FEWEST = 3  # clusters: of fewer no interval is given


@dataclass(frozen=True)
class Interval:
    """A mean over clusters with its 95 % interval; the ends are NaN when there are too few clusters.

    Attributes:
        value: the mean over clusters of each cluster's mean.
        low, high: the interval.
        clusters: how many.
        rows: how many rows are in them.
    """

    value: float
    low: float
    high: float
    clusters: int
    rows: int

    @property
    def bounded(self) -> bool:
        """Whether there is an interval."""
        return math.isfinite(self.low)


def clustered(
    values: npt.ArrayLike, clusters: Sequence[Hashable], *, level: float = 0.95, draws: int = DRAWS, seed: int = 0
) -> Interval:
    """The mean with a cluster bootstrap: whole subjects are drawn with replacement, so all that they share is too.

    Args:
        values: one per row; NaN is left out.
        clusters: the subject of each row.
        level: of the interval.
        draws: of the bootstrap.
        seed: of the draws.
    """
    numbers = np.asarray(values, dtype=float)
    kept = ~np.isnan(numbers)
    by_cluster: dict[Hashable, list[float]] = {}
    for value, cluster, keep in zip(numbers.tolist(), clusters, kept.tolist(), strict=True):
        if keep:
            by_cluster.setdefault(cluster, []).append(value)
    if not by_cluster:
        return Interval(math.nan, math.nan, math.nan, 0, 0)
    means = np.array([sum(items) / len(items) for items in by_cluster.values()])
    low, high = percentiles(means, level=level, draws=draws, seed=seed)
    return Interval(float(means.mean()), low, high, len(means), int(kept.sum()))


def percentiles(
    means: npt.ArrayLike, *, level: float = 0.95, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """The percentile interval of the mean of cluster means; NaN for fewer than three."""
    numbers = np.asarray(means, dtype=float)
    if numbers.size < FEWEST:
        return math.nan, math.nan
    drawn = np.random.default_rng(seed).integers(numbers.size, size=(draws, numbers.size))
    ends = np.quantile(numbers[drawn].mean(1), [(1 - level) / 2, (1 + level) / 2])
    return float(ends[0]), float(ends[1])


def paired_p(values: npt.ArrayLike, clusters: Sequence[Hashable]) -> float:
    """The two-sided p that the mean difference is zero: signs of whole clusters are flipped."""
    means = list(_means(values, clusters).values())
    return min(1.0, 2.0 * min(sign_flip(means), sign_flip([-value for value in means])))


def holm(values: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p values: name -> p, NaN passed over."""
    told = sorted((p, name) for name, p in values.items() if not math.isnan(p))
    adjusted: dict[str, float] = {name: math.nan for name in values}
    largest = 0.0
    for index, (p, name) in enumerate(told):
        largest = max(largest, min(1.0, (len(told) - index) * p))
        adjusted[name] = largest
    return adjusted


def _means(values: npt.ArrayLike, clusters: Sequence[Hashable]) -> dict[Hashable, float]:
    by_cluster: dict[Hashable, list[float]] = {}
    for value, cluster in zip(np.asarray(values, dtype=float).tolist(), clusters, strict=True):
        if not math.isnan(value):
            by_cluster.setdefault(cluster, []).append(value)
    return {cluster: float(np.mean(items)) for cluster, items in by_cluster.items()}
