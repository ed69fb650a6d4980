"""The score-norm identity of Lu et al. along a run: recording, the identity's norm, deviations, balancedness."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attnscope.lenses._free_keys import identity_norm
from attnscope.models.bag_of_words_descent import Descent

Array = npt.NDArray[np.float64]

__all__ = ["Recorded", "balance_drift", "identity_norm", "record", "relative_deviation"]


@dataclass
class Recorded:
    """A run: `losses` `[epoch]` before each step; `scores`, `norms` `[record, word]` (norms times ||q||)."""

    descent: Descent
    losses: Array
    scores: Array
    norms: Array
    every: int


def record(descent: Descent, epochs: int, words: Iterable[int], every: int = 10) -> Recorded:
    """Trains and records the chosen words; the start is the first record."""
    chosen = list(words)
    losses = np.empty(epochs)
    scores, norms = [], []

    def keep() -> None:
        scores.append(descent.scores[chosen])
        table = descent.table[chosen]
        size = np.linalg.norm(table, axis=1) if not descent.from_zero else descent.norms()[chosen]
        norms.append(size * np.linalg.norm(descent.query))

    keep()
    for epoch in range(epochs):
        losses[epoch] = descent.step()
        if (epoch + 1) % every == 0:
            keep()
    return Recorded(descent, losses, np.array(scores), np.array(norms), every)


def relative_deviation(run: Recorded, m: float | Array, rate_ratio: float = 1.0) -> Array:
    """`[record, word]`: (measured - identity) / identity; NaN at the start, where both are zero."""
    theory = identity_norm(run.scores, m, start_score=run.scores[0], start_norm=run.norms[0], rate_ratio=rate_ratio)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((run.norms - theory) / theory)


def balance_drift(descent: Descent, epochs: int) -> float:
    """||change of E^T E - W W^T||_F over a run, relative to the change of E^T E (zero under gradient flow)."""
    before_e = descent.table.T @ descent.table
    before = before_e - descent.head[0] @ descent.head[0].T
    for _ in range(epochs):
        descent.step()
    after_e = descent.table.T @ descent.table
    after = after_e - descent.head[0] @ descent.head[0].T
    return float(np.linalg.norm(after - before) / np.linalg.norm(after_e - before_e))
