"""The thresholds of AutoTrainer, on the readings that stand for what it looks at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from attnscope.anatomy.blocks import Role
from attnscope.bench.rankers import Ranker
from attnscope.bench.rankers._places import with_sites
from attnscope.bench.rankers._readings import by_block
from attnscope.bench.row import Row

VANISHING_RATIO, VANISHING_NORM, EXPLODING_RATIO = 1e-3, 1e-4, 70.0
DEAD_SHARE, LARGEST_WEIGHT, LARGEST_LOSS = 0.7, 5.0, 1e3
SWING, SWING_SHARE, LEAST_GAIN = 0.03, 0.2, 0.01


@dataclass
class AutotrainerRules(Ranker):
    """The thresholds of AutoTrainer: vanishing and exploding gradients, dead units, large weights, loss that
    oscillates, diverges or does not fall.

    Mapped: a Keras layer's kernel is a block that is no normalisation, in the order of the forward pass. A unit
    without gradient is a block without gradient. Accuracy per epoch is not stored; its swing (0.03) and gain (0.01)
    are taken of the loss, relative to the first loss. Overfitting is left out: there is no training accuracy.

    **Suspicion**: how many of the symptoms are there.

    **Places**: a vanishing gradient names the first kernel and those below the least norm; an exploding one the
    kernels above 70 times the last; dead and large blocks name themselves; symptoms of the loss name nothing.

    **Reference**: Zhang et al. 2021, AutoTrainer: An Automatic DNN Training Problem Detection and Repair System,
    ICSE; thresholds as in its published settings.
    """  # noqa: D205  # the first sentence is one line to a reader

    lenses: ClassVar[tuple[str, ...]] = ("gradient_norm", "weight_norm")

    def suspicion(self, row: Row) -> float:
        """Symptoms, 0 to 7."""
        return float(sum(map(bool, (*_of_blocks(row).values(), *_of_loss(row.losses)))))

    def order(self, row: Row) -> Mapping[str, float]:
        """How many symptoms name each block."""
        found = dict.fromkeys(row.blocks, 0.0)
        for named in _of_blocks(row).values():
            for block in named:
                found[block] += 1.0
        return with_sites(row, found)


def _of_blocks(row: Row) -> dict[str, list[str]]:
    """Symptom -> the blocks that have it."""
    roles = dict(zip(row.blocks, row.roles, strict=True))
    norms = {
        block: norm
        for block, norm in by_block("gradient_norm")(row).items()
        if roles[block] != Role.NORM.value and not np.isnan(norm)
    }
    found: dict[str, list[str]] = {"vanishing": [], "exploding": [], "dead": [], "weights": []}
    if norms:
        blocks, values = list(norms), list(norms.values())
        first, last = values[0], values[-1]
        ratio = first / last if last > 0 else float("inf") if first > 0 else 1.0
        if ratio < VANISHING_RATIO and first < VANISHING_NORM:
            found["vanishing"] = [block for block in blocks if norms[block] < VANISHING_NORM]
        if ratio > EXPLODING_RATIO or not np.isfinite(ratio):
            found["exploding"] = [block for block in blocks if norms[block] > EXPLODING_RATIO * last]
        dead = [block for block in blocks if norms[block] == 0.0]
        if len(dead) >= DEAD_SHARE * len(blocks):
            found["dead"] = dead
    found["weights"] = [
        block for block, size in by_block("weight_norm")(row).items() if size > LARGEST_WEIGHT or np.isinf(size)
    ]
    return found


def _of_loss(losses: tuple[float, ...]) -> tuple[bool, bool, bool]:
    """Whether the loss diverges, swings, and does not fall."""
    values = np.array(losses, dtype=float)
    if values.size < 2:
        return False, False, False
    if not np.isfinite(values).all() or values.max() > LARGEST_LOSS:
        return True, False, False
    relative = values / max(abs(values[0]), 1e-12)
    rises = np.diff(relative)
    swings = float((rises >= SWING).mean()) >= SWING_SHARE
    return False, bool(swings), bool(1.0 - relative.min() < LEAST_GAIN)
