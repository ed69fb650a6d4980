"""The thresholds of DeepDiagnosis, on the readings that stand for what it looks at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from attnscope.bench.rankers import Ranker
from attnscope.bench.rankers._places import with_sites
from attnscope.bench.rankers._readings import by_block
from attnscope.bench.row import Row

VANISHING = 1e-7  # mean size of a gradient's entries
LEAST_VARIANCE, LARGEST_VARIANCE = 1e-5, 10.0  # of the weights
LEAST_STEP, LARGEST_STEP = 1e-5, 1e-1  # a hundredth and a hundred times a step of 1e-3 of the weights
FLAT_LOSSES = 5


@dataclass
class DeepdiagnosisRules(Ranker):
    """The thresholds of DeepDiagnosis: numerical errors, vanishing gradient, unchanged tensor, poor weights,
    learning rate, loss that is invalid or does not decrease.

    Mapped: a Keras layer is a block. The mean size of a gradient's entries is at most its norm over the root of
    their number, which is used in its place; the variance of weights is the square of their root mean square; lr
    |dW| / |W| is what one step of the optimiser changes. A tensor is unchanged when a block has not moved from its
    start. Dead nodes and saturated activations are left out: activations of single units are not stored. The range
    of the output is left out: it asks of the loss by its name.

    **Suspicion**: how many of the symptoms are there.

    **Places**: the blocks that have a symptom, each as often as it has one; a loss names nothing.

    **Reference**: Wardat et al. 2022, DeepDiagnosis: Automatically Diagnosing Faults and Recommending Actionable
    Fixes in Deep Learning Programs, ICSE; thresholds as in its published code.
    """  # noqa: D205  # the first sentence is one line to a reader

    lenses: ClassVar[tuple[str, ...]] = ("gradient_norm", "weight_norm", "update_to_weight", "activation_norm")

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
    gradients, weights = by_block("gradient_norm")(row), by_block("weight_norm")(row)
    steps, moved = by_block("update_to_weight")(row), by_block("weight_distance")(row)
    outputs = by_block("activation_norm")(row)
    sizes = dict(zip(row.blocks, row.sizes, strict=True))
    return {
        # A forward pass that was not seen (NaN in one block alone) is no error; infinity and exact zero are.
        "numerical": [
            block
            for block in row.blocks
            if np.isinf(outputs.get(block, 1.0)) or outputs.get(block, 1.0) == 0.0
            or np.isinf(weights.get(block, 1.0)) or np.isinf(gradients.get(block, 1.0))
        ],
        "vanishing": [
            block for block, norm in gradients.items() if norm / np.sqrt(max(sizes[block], 1)) < VANISHING
        ],
        "weights": [
            block for block, size in weights.items() if size**2 < LEAST_VARIANCE or size**2 > LARGEST_VARIANCE
        ],
        "step": [block for block, step in steps.items() if step < LEAST_STEP or step > LARGEST_STEP],
        "unchanged": [block for block, distance in moved.items() if distance == 0.0],
    }  # fmt: skip


def _of_loss(losses: tuple[float, ...]) -> tuple[bool, bool]:
    """Whether the loss is not a number, and whether its last five are all the same."""
    values = np.array(losses, dtype=float)
    if not values.size:
        return False, False
    last = values[-FLAT_LOSSES:]
    return bool(not np.isfinite(values).all()), bool(len(last) == FLAT_LOSSES and (last == last[0]).all())
