"""All planted mistakes, in the order of the kinds."""

from __future__ import annotations

from planting import balance, data, masks, positions, projections, scores, updates
from planting.planted import Planted

PLANTED: tuple[Planted, ...] = (
    *masks.PLANTED,
    *scores.PLANTED,
    *projections.PLANTED,
    *positions.PLANTED,
    *updates.PLANTED,
    *data.PLANTED,
    *balance.PLANTED,
)

# Kinds of which nothing can be seen before training: exchanged layers of an untrained model are as good as any.
SEEN_ONLY_AFTER_TRAINING = {
    "swapped",
    "positions shifted",
    "labels unshifted",
    "labels without signal",
    "uniform attention",
    "rank collapse",
    "left out of the optimiser",
    "learning rate out of line",
    "beyond the stability limit",
    "not registered",
    "balance moves",
    "decay eats the rank",
}
