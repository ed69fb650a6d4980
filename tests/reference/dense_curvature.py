"""The naive twin of every curvature estimator: the whole matrix, row by row, in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from attnscope.anatomy.blocks import Block
from attnscope.curvature.operator import BlockOperator


def dense_hessian(
    model: nn.Module, batches: Sequence[Any], loss: Callable[[nn.Module, Any], Tensor],
    weights: Sequence[float] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """`(H, index)`: the Hessian in all parameters, and each parameter's positions in it, in its own shape."""
    model = copy.deepcopy(model).double().eval()
    named = dict(model.named_parameters())
    for parameter in named.values():
        parameter.requires_grad_(True)
    index, start = {}, 0
    for name, parameter in named.items():
        index[name] = torch.arange(start, start + parameter.numel()).view(parameter.shape)
        start += parameter.numel()
    weights = weights or [1.0] * len(batches)
    with sdpa_kernel(SDPBackend.MATH):
        total = sum(w * loss(model, b) for w, b in zip(weights, batches, strict=True)) / sum(weights)
        first = torch.autograd.grad(total, list(named.values()), create_graph=True, allow_unused=True)
        gradient = _flat(first, named)
        rows = []
        for entry in gradient:
            if entry.requires_grad:
                row = torch.autograd.grad(entry, list(named.values()), retain_graph=True, allow_unused=True)
                rows.append(_flat(row, named).detach())
            else:
                rows.append(torch.zeros(start, dtype=torch.float64))
    return torch.stack(rows), index


def _flat(tensors: Sequence[Tensor | None], named: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([
        (torch.zeros_like(parameter) if tensor is None else tensor).reshape(-1)
        for tensor, parameter in zip(tensors, named.values(), strict=True)
    ])


def difference_hessian(
    model: nn.Module, batch: Any, loss: Callable[[nn.Module, Any], Tensor], step: float = 1e-5
) -> Tensor:
    """The Hessian by central differences of the gradient: it uses no second derivative."""
    model = copy.deepcopy(model).double().eval()
    parameters = list(model.parameters())

    def gradient() -> Tensor:
        found = torch.autograd.grad(loss(model, batch), parameters, allow_unused=True)
        return torch.cat([(torch.zeros_like(p) if g is None else g).reshape(-1)
                          for g, p in zip(found, parameters, strict=True)])

    rows = []
    for parameter in parameters:
        flat = parameter.data.view(-1)
        for entry in range(flat.numel()):
            kept = float(flat[entry])
            flat[entry] = kept + step
            above = gradient()
            flat[entry] = kept - step
            below = gradient()
            flat[entry] = kept
            rows.append((above - below) / (2 * step))
    return torch.stack(rows)


def positions(block: Block, index: Mapping[str, Tensor]) -> Tensor:
    """Where a block's entries are in the dense matrix."""
    parts = []
    for part in block.slices:
        where = index[part.parameter]
        if part.dim is not None:
            where = torch.cat([where.narrow(part.dim, a, b - a) for a, b in part.ranges], part.dim)
        parts.append(where.reshape(-1))
    return torch.cat(parts)


class DenseOperator(BlockOperator):
    """A known symmetric matrix, cut into consecutive blocks: what estimators are tested on."""

    def __init__(self, matrix: Tensor, sizes: Mapping[str, int]) -> None:
        self.matrix = matrix
        self.sizes = dict(sizes)
        self.dtype = matrix.dtype
        ends = torch.tensor([0, *self.sizes.values()]).cumsum(0).tolist()
        self.place = {name: slice(a, b) for name, a, b in zip(self.sizes, ends, ends[1:], strict=False)}
        self.n_products = 0

    def device(self, name: str) -> torch.device:
        return self.matrix.device

    def block(self, a: str, b: str) -> Tensor:
        return self.matrix[self.place[a], self.place[b]]

    def products(self, requests):
        for request in requests:
            self.check_request(request)
            self.n_products += 1
            yield {
                b: sum((self.block(b, a) @ v for a, v in request.vectors.items()),
                       self.matrix.new_zeros(self.sizes[b]))
                for b in request.out
            }

    @staticmethod
    def cut(matrix: Tensor, blocks: Sequence[Block], index: Mapping[str, Tensor]) -> DenseOperator:
        """The blocks of a dense Hessian, in their order."""
        where = torch.cat([positions(block, index) for block in blocks])
        return DenseOperator(matrix[where][:, where], {block.name: block.numel for block in blocks})

