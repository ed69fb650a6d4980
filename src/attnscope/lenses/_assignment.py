"""The cheapest way to give each row a column of its own."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def assigned(cost: npt.NDArray[np.float64]) -> list[int]:
    """Row -> column, each column once, with the least total cost (Kuhn 1955, by shortest augmenting paths).

    Ties go to the diagonal: where the identity is as good as any other, it is the answer.
    """
    size = len(cost)
    best = _matched(cost)
    total = sum(cost[row, column] for row, column in enumerate(best))
    return list(range(size)) if float(np.trace(cost)) <= total + 1e-12 * float(np.abs(cost).sum()) else best


def _matched(cost: npt.NDArray[np.float64]) -> list[int]:
    size = len(cost)
    row_price, column_price = np.zeros(size + 1), np.zeros(size + 1)
    holder = np.zeros(size + 1, dtype=int)  # column -> its row, counted from 1; column 0 is the row being placed
    for row in range(1, size + 1):
        holder[0], column = row, 0
        least, came_from = np.full(size + 1, np.inf), np.zeros(size + 1, dtype=int)
        done = np.zeros(size + 1, dtype=bool)
        while holder[column]:
            done[column] = True
            here = holder[column]
            slack = cost[here - 1] - row_price[here] - column_price[1:]
            nearer = ~done[1:] & (slack < least[1:])
            least[1:][nearer], came_from[1:][nearer] = slack[nearer], column
            open_columns = np.flatnonzero(~done[1:]) + 1
            following = int(open_columns[least[open_columns].argmin()])
            step = least[following]
            row_price[holder[done]] += step
            column_price[done] -= step
            least[~done] -= step
            column = following
        while column:
            holder[column], column = holder[came_from[column]], int(came_from[column])
    found = [0] * size
    for column in range(1, size + 1):
        found[holder[column] - 1] = column - 1
    return found
