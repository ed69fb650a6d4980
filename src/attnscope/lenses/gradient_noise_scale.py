"""How much the gradient varies from example to example, per block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from attnscope.lenses import DEEP, Lens
from attnscope.lenses._batch import examples, n_examples
from attnscope.lenses._low_rank import zeros_where_unreached
from attnscope.lenses._parameters import flat, named
from attnscope.lenses._sequence import main_sequence
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class GradientNoiseScale(Lens):
    """The batch size at which noise and signal of a block's gradient are equal.

    **Measures**: tr(S) / |G|^2, with S the covariance of the gradient over examples and G its mean, both
    without bias from the number of examples: from the gradients of single examples (or of whole batches, when
    the batch cannot be cut) and of their mean. Infinite (NaN here) where the mean gradient is lost in its own
    noise; the standard error is a jackknife.

    **Reading it**: far above the batch size, a step is mostly noise; it grows as training goes on.

    **Shapes**: (block,).

    **Cost**: one gradient per example, at most `max_examples`.

    **Reference**: McCandlish et al., 2018, arXiv:1812.06162, appendix A.
    """

    max_examples: int = 32

    unit: ClassVar[str] = "examples"
    dims: ClassVar[tuple[str, ...]] = ("block",)
    needs: ClassVar[tuple[str, ...]] = ("gradient",)
    effort: ClassVar[str] = DEEP

    def measure(self, probe: Probe) -> Reading:
        """Takes the gradient of every example on its own."""
        parts, size = _parts(probe, self.max_examples)
        if len(parts) < 3:
            return self.not_applicable(f"{len(parts)} examples or batches can be taken apart; the estimate needs three")
        weights = {name: value for name, value in named(probe.model).items() if value.is_floating_point()}
        blocks = [
            block
            for block in probe.anatomy.blocks
            if block.slices and all(piece.parameter in weights for piece in block.slices)
        ]
        squares = {block.name: np.zeros((len(parts), len(parts))) for block in blocks}
        rows: dict[str, list[Tensor]] = {block.name: [] for block in blocks}
        for part in parts:
            gradients = zeros_where_unreached(weights, probe.gradients_of(part))
            for block in blocks:
                rows[block.name].append(flat(gradients, block).float())
        for name, vectors in rows.items():
            stacked = torch.stack(vectors).double()
            squares[name] = (stacked @ stacked.T).numpy()
        values = [_noise_scale(squares[block.name]) * size for block in blocks]
        errors = [_jackknife(squares[block.name]) * size for block in blocks]
        if all(value != value for value in values):
            return self.not_applicable("the mean gradient of every block is lost in its noise")
        return self.reading(
            values,
            stderr=errors,
            coords={"block": tuple(block.name for block in blocks)},
            step=probe.step,
            facts={"n_parts": len(parts), "examples_per_part": size},
        )


def _parts(probe: Probe, most: int) -> tuple[list[Any], int]:
    """Batches of one example each; the batches themselves where they cannot be cut. And their size."""
    sequence = main_sequence(probe)
    axis = 0 if sequence is None or sequence.batch_axis is None else sequence.batch_axis
    found: list[Any] = []
    for batch in probe.batches:
        count = n_examples(probe, batch) if axis == 0 else None
        if count is None:
            continue
        found += [examples(batch, [index], count, axis) for index in range(count)]
        if len(found) >= most:
            break
    try:
        if found:
            probe.gradients_of(found[0])
            return found[:most], 1
    except Exception:  # a model or a loss that does not take single examples
        found = []
    sizes = [n_examples(probe, batch) or 1 for batch in probe.batches]
    return list(probe.batches)[:most], round(sum(sizes) / len(sizes))


def _noise_scale(products: Any) -> float:
    """From the Gram matrix of the parts' gradients: tr(S) / |G|^2, unbiased in numerator and denominator."""
    count = len(products)
    mean_of_squares = float(np.trace(products)) / count
    square_of_mean = float(products.sum()) / count**2
    signal = (count * square_of_mean - mean_of_squares) / (count - 1)
    noise = (mean_of_squares - square_of_mean) * count / (count - 1)
    return noise / signal if signal > 0 else float("nan")


def _jackknife(products: Any) -> float:
    count = len(products)
    kept = [np.delete(np.delete(products, index, 0), index, 1) for index in range(count)]
    found = np.array([_noise_scale(item) for item in kept])
    found = found[~np.isnan(found)]
    if len(found) < count:
        return float("nan")
    return float(np.sqrt((count - 1) * found.var()))
