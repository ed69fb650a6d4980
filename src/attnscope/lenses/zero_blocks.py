"""Blocks whose weights are all the same number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from attnscope.anatomy.blocks import Block
from attnscope.lenses import Lens
from attnscope.lenses._parameters import named, part
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class ZeroBlocks(Lens):
    """The share of each block's weights that are exactly zero: 1 is a block that does nothing.

    **Measures** the share of zeros among the block's matrix entries (among all its numbers, when it holds no
    matrix), unit 1.

    **Reading it** 0 in nearly every block. 1: the block was zeroed, never initialised, or starts at zero by
    design (the second factor of LoRA, the last layer of some residual branches, biases); then it must move in
    training. In between: pruning, or a padding row of an embedding. A matrix of one constant other than zero
    is listed too: it maps all tokens to the same direction.

    **Shapes** [block]. Facts: `zero`: blocks and heads whose matrices are all zero; `constant`: {block,
    value} of those whose matrix is one other constant; `zero_rows`: block -> number of rows (first
    dimension) that are all zero, where there are any.

    **Cost** one pass over the parameters.

    **Reference** none needed: an identity.
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("block",)
    needs: ClassVar[tuple[str, ...]] = ("weights",)

    def measure(self, probe: Probe) -> Reading:
        """The share of zeros in every block."""
        blocks = probe.anatomy.blocks
        if not blocks:
            return self.not_applicable("the model has no parameters")
        parameters = named(probe.model)
        shares: list[float] = []
        zero: list[str] = []
        constant: list[dict[str, Any]] = []
        zero_rows: dict[str, int] = {}
        for block in (*blocks, *probe.anatomy.head_blocks()):
            matrices, numbers = _numbers(parameters, block)
            share = float(sum(int((tensor == 0).sum()) for tensor in numbers)) / max(
                sum(tensor.numel() for tensor in numbers), 1
            )
            if block.head is None:
                shares.append(share)
                rows = sum(int((tensor.flatten(1) == 0).all(1).sum()) for tensor in matrices)
                if rows:
                    zero_rows[block.name] = rows
            if matrices and share == 1:
                zero.append(block.name)
            elif matrices and all(_is_constant(tensor) for tensor in matrices):
                constant.append({"block": block.name, "value": float(matrices[0].flatten()[0])})
        names = tuple(block.name for block in blocks)
        return self.reading(
            shares, coords={"block": names}, step=probe.step,
            facts={"zero": zero, "constant": constant, "zero_rows": zero_rows},
        )


def _numbers(parameters: Mapping[str, Tensor], block: Block) -> tuple[list[Tensor], list[Tensor]]:
    """The block's matrices, and what its share is counted over: these, or all when there are none."""
    tensors = [part(parameters, piece) for piece in block.slices]
    matrices = [tensor for tensor in tensors if tensor.ndim >= 2 and tensor.numel()]
    return matrices, matrices or [tensor for tensor in tensors if tensor.numel()]


def _is_constant(tensor: Tensor) -> bool:
    return tensor.numel() > 1 and bool((tensor == tensor.flatten()[0]).all())
