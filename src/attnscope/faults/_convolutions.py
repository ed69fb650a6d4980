"""The convolutions of a model that look at more than one place, and their blocks."""

from __future__ import annotations

from torch import nn

from attnscope.anatomy.blocks import Anatomy, ParameterSlice
from attnscope.faults._projections import CONVOLUTIONS


def convolutions(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Path and module of each, in the order in which they are registered."""
    return [
        (path, module) for path, module in model.named_modules()
        if isinstance(module, CONVOLUTIONS) and max(module.kernel_size) > 1
    ]


def convolution_blocks(anatomy: Anatomy, *, n_axes: tuple[int, ...] = (3, 4, 5)) -> list[str]:
    """Names of the blocks that hold such a convolution's weights, in the same order.

    Args:
        anatomy: of the model.
        n_axes: how many axes the weight may have: 5 for a convolution over time and space.
    """
    return [block.name for block in anatomy.blocks if _convolves(block.slices[0], n_axes)]


def _convolves(piece: ParameterSlice, n_axes: tuple[int, ...]) -> bool:
    return piece.dim is None and len(piece.shape) in n_axes and max(piece.shape[2:]) > 1 and "weight" in piece.parameter


def obstacle_of_number(found: int, number: int, what: str) -> str:
    """Why there is no such member of a list, or an empty string."""
    return "" if -found <= number < found else f"the model has {found} {what}, so there is no number {number}"
