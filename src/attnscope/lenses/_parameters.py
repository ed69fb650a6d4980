"""From the names in an anatomy to the numbers in the model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from attnscope.anatomy.blocks import Attention, Block, ParameterSlice


def named(model: nn.Module) -> dict[str, Tensor]:
    """Parameter name -> its tensor, detached: the names that `ParameterSlice.parameter` uses."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def part(parameters: Mapping[str, Tensor], piece: ParameterSlice) -> Tensor:
    """The slice of the parameter, in the parameter's own layout."""
    tensor = parameters[piece.parameter].cpu()
    if piece.dim is None:
        return tensor
    cuts = [tensor.narrow(piece.dim, start, stop - start) for start, stop in piece.ranges]
    return torch.cat(cuts, piece.dim)


def flat(parameters: Mapping[str, Tensor], block: Block) -> Tensor:
    """All numbers of a block, in float64, in the order of its slices."""
    pieces = [part(parameters, piece).double().flatten() for piece in block.slices]
    return torch.cat(pieces) if pieces else torch.zeros(0, dtype=torch.float64)


def head_matrix(
    parameters: Mapping[str, Tensor], attention: Attention, role: str, head: int, *, with_bias: bool = False
) -> Tensor | None:
    """One head's part of a projection as a matrix [head width, model width].

    The dimension that is cut by head is the head's width, whatever the layout of the parameter (a linear
    layer, a transposed Conv1D, a 1x1x1 convolution). The bias, when asked for and present, is a last column.

    Returns:
        The matrix in float64, or None when the trace found no such slice or it is not a matrix.
    """
    heads = attention.head_slices.get(role, ())
    if head >= len(heads):
        return None
    matrix: Tensor | None = None
    bias: Tensor | None = None
    for piece in heads[head]:
        tensor = part(parameters, piece).double()
        if tensor.ndim >= 2 and matrix is None:
            cut = _head_dim(piece, attention, role)
            matrix = tensor.movedim(cut, 0).flatten(1)
        elif tensor.ndim == 1 and bias is None:
            bias = tensor
    if matrix is None:
        return None
    if with_bias and bias is not None and bias.numel() == matrix.shape[0]:
        return torch.cat([matrix, bias[:, None]], 1)
    return matrix


def _head_dim(piece: ParameterSlice, attention: Attention, role: str) -> int:
    """The dimension that runs over the head's width.

    A single head is not cut; then the one dimension of that width is it, and of two alike the one that a
    linear layer would have.
    """
    if piece.dim is not None:
        return piece.dim
    usual = 1 if role == "output" else 0
    width = attention.d_value if role in ("value", "output") else attention.d_head
    fitting = [dim for dim, size in enumerate(piece.shape[:2]) if size == width]
    return fitting[0] if len(fitting) == 1 else usual
