"""Each block's weights and gradient as flat vectors."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from attnscope.anatomy.blocks import Block
from attnscope.lenses._low_rank import zeros_where_unreached
from attnscope.lenses._parameters import flat, named
from attnscope.probe import Probe


@dataclass(frozen=True)
class BlockGradient:
    """One block, in float64 on the CPU.

    Attributes:
        block: which.
        weight: its numbers.
        gradient: of the loss on the first batch; zeros where no path leads.
        reached: whether a gradient path leads to any of its parameters.
    """

    block: Block
    weight: Tensor
    gradient: Tensor
    reached: bool


def gradients_by_block(probe: Probe) -> list[BlockGradient]:
    """Every block of floating-point parameters, in the order of the anatomy."""
    weights = {name: value for name, value in named(probe.model).items() if value.is_floating_point()}
    gradients = zeros_where_unreached(weights, probe.gradients)
    return [
        BlockGradient(
            block=block,
            weight=flat(weights, block),
            gradient=flat(gradients, block),
            reached=any(probe.gradients.get(piece.parameter) is not None for piece in block.slices),
        )
        for block in probe.anatomy.blocks
        if block.slices and all(piece.parameter in weights for piece in block.slices)
    ]
