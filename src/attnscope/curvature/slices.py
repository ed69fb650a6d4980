"""Between a block's flat vector and the parameters (or parts of parameters) that it is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from attnscope.anatomy.blocks import Block, ParameterSlice, Role
from attnscope.curvature.sharded import full, zeros
from attnscope.errors import CaseError


def gather(block: Block, tensors: Mapping[str, Tensor | None], like: Mapping[str, Tensor]) -> Tensor:
    """The block's entries as one flat vector; a parameter whose tensor is None counts as zeros."""
    parts = []
    for part in block.slices:
        tensor = tensors[part.parameter]
        if tensor is None:
            parameter = like[part.parameter]
            parts.append(torch.zeros(part.numel, dtype=parameter.dtype, device=parameter.device))
        else:
            parts.append(_cut(part, full(tensor)).reshape(-1))
    first = parts[0].device
    return parts[0] if len(parts) == 1 else torch.cat([part.to(first) for part in parts])


def scatter(block: Block, vector: Tensor, into: dict[str, Tensor], like: Mapping[str, Tensor]) -> None:
    """Adds the block's flat vector to parameter-shaped tensors, which start as zeros where there are none."""
    start = 0
    for part in block.slices:
        parameter = like[part.parameter]
        piece = vector[start : start + part.numel].to(parameter.device, parameter.dtype)
        start += part.numel
        if part.dim is None and part.parameter not in into:
            into[part.parameter] = piece.view(parameter.shape)
            continue
        whole = into.get(part.parameter)
        # A new tensor, since the one at hand may be a view of the caller's vector.
        whole = zeros(parameter) if whole is None else whole.clone()
        if part.dim is None:
            whole += piece.view(parameter.shape)
        else:
            _add(part, whole, piece)
        into[part.parameter] = whole


def _cut(part: ParameterSlice, tensor: Tensor) -> Tensor:
    if part.dim is None:
        return tensor
    rows = [tensor.narrow(part.dim, start, stop - start) for start, stop in part.ranges]
    return rows[0] if len(rows) == 1 else torch.cat(rows, part.dim)


def _add(part: ParameterSlice, whole: Tensor, piece: Tensor) -> None:
    dim = part.dim
    if dim is None:
        raise ValueError("a whole parameter has no ranges")
    count = sum(stop - start for start, stop in part.ranges)
    shape = [*whole.shape]
    shape[dim] = count
    piece = piece.view(shape)
    taken = 0
    for start, stop in part.ranges:
        whole.narrow(dim, start, stop - start).add_(piece.narrow(dim, taken, stop - start))
        taken += stop - start


def parameter_blocks(model: nn.Module) -> tuple[Block, ...]:
    """One block per trainable floating-point parameter, named by it; tied parameters count once."""
    return tuple(
        Block(name=name, role=Role.ENCODER, slices=(ParameterSlice(name, tuple(parameter.shape)),))
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.is_floating_point() and parameter.numel()
    )


def check_blocks(blocks: Sequence[Block], parameters: Mapping[str, Tensor]) -> tuple[Block, ...]:
    """The blocks, if they can be differentiated twice.

    Raises:
        CaseError: no blocks, two of one name, an empty block, or a parameter that is unknown, of another
            shape, not floating-point, sparse, quantised or on the meta device.
    """
    if not blocks:
        raise CaseError("there is nothing to differentiate: no block, and no trainable real parameter")
    seen: set[str] = set()
    for block in blocks:
        if block.name in seen:
            raise CaseError(f"two blocks are named {block.name!r}; block names must differ")
        seen.add(block.name)
        if not block.slices or block.numel == 0:
            raise CaseError(f"block {block.name!r} holds no parameters; leave it out")
        for part in block.slices:
            _check_slice(block.name, part, parameters)
    return tuple(blocks)


def _check_slice(block: str, part: ParameterSlice, parameters: Mapping[str, Tensor]) -> None:
    tensor = parameters.get(part.parameter)
    if tensor is None:
        raise CaseError(
            f"block {block!r} names the parameter {part.parameter!r}, which the model does not have "
            "(a tied parameter goes by its first name in model.named_parameters())"
        )
    if tuple(tensor.shape) != tuple(part.shape):
        raise CaseError(
            f"block {block!r}: parameter {part.parameter!r} has shape {tuple(tensor.shape)}, "
            f"the block was made for {tuple(part.shape)}; trace the model again"
        )
    if not tensor.is_floating_point():
        raise CaseError(
            f"block {block!r}: parameter {part.parameter!r} is {str(tensor.dtype).removeprefix('torch.')}; "
            "curvature is defined for floating-point parameters only, so leave it out"
        )
    if part.dim is not None:
        size = tensor.shape[part.dim]
        outside = [pair for pair in part.ranges if not 0 <= pair[0] < pair[1] <= size]
        if outside:
            raise CaseError(
                f"block {block!r}: range {outside[0]} is outside dimension {part.dim} of "
                f"{part.parameter!r}, which has size {size}"
            )


def parameters_of(blocks: Iterable[Block]) -> tuple[str, ...]:
    """The names of the parameters that the blocks touch, once each, in order."""
    return tuple(dict.fromkeys(part.parameter for block in blocks for part in block.slices))
