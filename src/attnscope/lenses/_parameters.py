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

    Whatever the layout of the parameter: a linear layer, a transposed Conv1D, a 1x1x1 convolution, or a
    tensor with an axis of its own for the heads. The bias, when asked for and present, is a last column.

    Returns:
        The matrix in float64, or None when the trace found no such slice or it is no such matrix.
    """
    heads = attention.head_slices.get(role, ())
    if head >= len(heads):
        return None
    width = attention.d_value if role in ("value", "output") else attention.d_head
    matrix: Tensor | None = None
    bias: Tensor | None = None
    for piece in heads[head]:
        tensor = part(parameters, piece).double()
        if len(piece.shape) >= 2 and matrix is None:
            matrix = _as_matrix(tensor, piece.dim, width, role)
        elif len(piece.shape) == 1 and bias is None:
            bias = tensor
    if matrix is None:
        return None
    if with_bias and bias is not None and bias.numel() == matrix.shape[0]:
        return torch.cat([matrix, bias[:, None]], 1)
    return matrix


def head_factors(
    parameters: Mapping[str, Tensor], attention: Attention, roles: tuple[str, str] = ("query", "key")
) -> tuple[Tensor, Tensor] | None:
    """Two weights of all heads, each [head, d_head, d_model]; a grouped key or value stands once per query head.

    Returns:
        The factors, or None when the trace did not find both for every head, or not all their parameters are held.
    """
    slices = [piece for role in roles for head in attention.head_slices.get(role, ()) for piece in head]
    if any(piece.parameter not in parameters for piece in slices):
        return None
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    for head in range(attention.n_heads):
        for role, store in zip(roles, found, strict=True):
            grouped = len(attention.head_slices.get(role, ())) < attention.n_heads
            shared = head * max(attention.n_key_heads, 1) // attention.n_heads
            matrix = head_matrix(parameters, attention, role, shared if grouped else head)
            if matrix is None:
                return None
            store.append(matrix)
    if not found[0] or len({matrix.shape[0] for matrix in found[0] + found[1]}) > 1:
        return None
    return torch.stack(found[0]), torch.stack(found[1])


def _as_matrix(tensor: Tensor, cut: int | None, width: int | None, role: str) -> Tensor | None:
    """The head's width first, all else flattened; None when no axis is as wide as the head.

    The cut runs over the width, or over the heads themselves; then (and when nothing is cut, for a single
    head) the one axis of the head's width is it, and of two alike the one that is usual.
    """
    if cut is not None and (width is None or tensor.shape[cut] == width):
        return tensor.movedim(cut, 0).flatten(1)
    if cut is not None and tensor.shape[cut] == 1 and tensor.ndim > 2:
        tensor, last = tensor.squeeze(cut), tensor.ndim - 2
        usual = 0 if role == "output" else last  # W[head, model, width] and W_O[head, width, model]
    else:
        usual = 1 if role == "output" else 0  # as in a linear layer, and [out, in, 1, 1] of a convolution
    fitting = [axis for axis, size in enumerate(tensor.shape) if width in (None, size)]
    if not fitting:
        return None
    return tensor.movedim(usual if usual in fitting else fitting[0], 0).flatten(1)
