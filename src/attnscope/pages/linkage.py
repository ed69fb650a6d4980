"""Hierarchical order: which things join first, as a tree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Join:
    """Two groups that become one.

    Attributes:
        left, right: numbers of the groups; below n they are the things themselves, n + i is the i-th join.
        height: the distance at which they join.
    """

    left: int
    right: int
    height: float


def average_linkage(distance: npt.NDArray[np.float64]) -> list[Join]:
    """Joins the two groups of least mean distance until one is left (Sokal and Michener 1958).

    Args:
        distance: square and symmetric; what is not finite counts as the largest finite distance.

    Returns:
        n - 1 joins, from the nearest to the farthest.
    """
    n = len(distance)
    finite = distance[np.isfinite(distance)]
    table = np.where(np.isfinite(distance), distance, float(finite.max()) if finite.size else 1.0)
    table = (table + table.T) / 2
    np.fill_diagonal(table, np.inf)
    number, size = list(range(n)), np.ones(n)
    joins: list[Join] = []
    while len(joins) < n - 1:
        i, j = sorted(int(place) for place in np.unravel_index(int(table.argmin()), table.shape))
        height = float(table[i, j])
        merged = (size[i] * table[i] + size[j] * table[j]) / (size[i] + size[j])
        # Rows that are gone stay infinite; a group is infinitely far from itself.
        gone = np.isinf(table[i]) & np.isinf(table[j])
        merged[gone] = np.inf
        merged[[i, j]] = np.inf
        table[i], table[:, i] = merged, merged
        table[j], table[:, j] = np.inf, np.inf
        joins.append(Join(number[i], number[j], height))
        number[i], size[i] = n + len(joins) - 1, size[i] + size[j]
    return joins


def leaves(joins: list[Join], n: int) -> list[int]:
    """The things in the order of the tree: those that join first stand side by side."""
    if not joins:
        return list(range(n))

    order: list[int] = []
    waiting = [n + len(joins) - 1]
    while waiting:
        group = waiting.pop()
        if group < n:
            order.append(group)
            continue
        join = joins[group - n]
        # The group that holds the model's first thing comes first.
        first, second = sorted((join.left, join.right), key=lambda item: _least(joins, n, item))
        waiting += [second, first]
    return order


def _least(joins: list[Join], n: int, group: int) -> int:
    least, waiting = n, [group]
    while waiting:
        item = waiting.pop()
        if item < n:
            least = min(least, item)
        else:
            waiting += [joins[item - n].left, joins[item - n].right]
    return least
