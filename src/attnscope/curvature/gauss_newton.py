"""Products with the Gauss-Newton matrix and the empirical Fisher matrix, on a kept graph.

Schraudolph, Fast curvature matrix-vector products for second-order gradient descent (2002). Both matrices
are `J^T A J`, where J is the Jacobian of the model's outputs and A is the loss's Hessian in the outputs; for
the empirical Fisher the outputs are the losses of single examples and A is the identity over their number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attnscope.anatomy.blocks import Block
from attnscope.curvature.kernels import refuse_cut_graphs
from attnscope.curvature.objective import Cost, Objective
from attnscope.curvature.operator import Request, SweptOperator
from attnscope.curvature.slices import gather, parameters_of, scatter
from attnscope.curvature.weighing import Piece, Weigh
from attnscope.errors import CaseError

Outputs = Callable[[nn.Module, Any], Tensor]
OutputLoss = Callable[[Tensor, Any], Tensor]


@dataclass(frozen=True)
class _Linearised:
    """The Jacobian of a piece's outputs, ready for products from either side."""

    outputs: Tensor
    dummy: Tensor  # the cotangent that `pulled` is linear in
    pulled: Mapping[str, Tensor]  # J^T dummy, differentiable in dummy
    slope: Tensor | None  # the loss's gradient in the outputs, differentiable in `entry`; None: A is constant
    entry: Tensor | None


class GaussNewton(SweptOperator):
    """The Gauss-Newton matrix `J^T (d^2 loss / d outputs^2) J`: the Hessian of the model made linear.

    It is positive semi-definite where the loss is convex in the outputs, and it lacks the Hessian's residual
    part. Near convergence that part is small as a whole, but it can be most of the coupling between two
    blocks that meet in a product, such as query and key: compare with `Hessian` before relying on either.

    Args:
        model, batches, blocks, dtype, seed, max_examples, weigh, keep, check: as in `Hessian`.
        outputs: `outputs(model, batch)` -> the tensor that the loss is a function of.
        loss: `loss(outputs, batch)` -> scalar.

    Attributes:
        objective: the loss, its value, its gradient, how the data are cut and weighed.
        blocks, sizes: the blocks, and how many parameters each has.

    Raises:
        CaseError, NotDeterministicError: as `Hessian`.
    """

    def __init__(
        self, model: nn.Module, batches: Iterable[Any], outputs: Outputs, loss: OutputLoss,
        blocks: Sequence[Block] | None = None, *, dtype: torch.dtype = torch.float32, seed: int = 0,
        max_examples: int | None = None, weigh: Weigh | None = None, keep: int = 1, check: bool = True,
    ) -> None:
        self.outputs = outputs
        self.loss = loss
        self.dtype = dtype
        self.keep = keep
        self.objective = Objective(
            model, batches, lambda inner, batch: loss(outputs(inner, batch), batch), blocks, dtype=dtype,
            seed=seed, max_examples=max_examples, weigh=weigh, check=check,
        )
        self.blocks = self.objective.blocks
        self.sizes = {name: block.numel for name, block in self.blocks.items()}
        self._kept: dict[int, _Linearised] = {}

    @property
    def cost(self) -> Cost:
        """What has been spent."""
        return self.objective.cost

    @property
    def held_at_once(self) -> int:
        """How many numbers of results are held together: one request's, unless graphs must be rebuilt."""
        return 8 * sum(self.sizes.values()) if len(self.objective.pieces) > self.keep else 1

    def device(self, name: str) -> torch.device:
        """Where the vectors of a block live."""
        return self.objective.parameters[self.blocks[name].slices[0].parameter].device

    def sweep(self, requests: Sequence[Request]) -> list[dict[str, Tensor]]:
        """The products of some requests, in one pass over the pieces."""
        results: list[dict[str, Tensor]] = [{} for _ in requests]
        with self.objective.computing():
            for index, piece in enumerate(self.objective.pieces):
                point = self._linearised(index)
                for request, result in zip(requests, results, strict=True):
                    for name, vector in self._product(point, request).items():
                        part = vector * piece.coefficient
                        result[name] = result[name] + part if name in result else part
        self.cost.products += len(requests)
        return results

    def _product(self, point: _Linearised, request: Request) -> dict[str, Tensor]:
        parameters = self.objective.parameters
        vectors: dict[str, Tensor] = {}
        for name, vector in request.vectors.items():
            scatter(self.blocks[name], vector.detach(), vectors, parameters)
        bent = self._bend(point, self._push(point, vectors))
        wanted = parameters_of(self.blocks[name] for name in request.out)
        found: Sequence[Tensor | None] = torch.autograd.grad(
            point.outputs, [parameters[name] for name in wanted], bent, retain_graph=True, allow_unused=True
        )
        tensors = dict(zip(wanted, found, strict=True))
        return {name: gather(self.blocks[name], tensors, parameters) for name in request.out}

    @staticmethod
    def _push(point: _Linearised, vectors: Mapping[str, Tensor]) -> Tensor:
        """`J v`: `J^T u` is linear in u, so its gradient in u, weighed by v, is `J v`."""
        reached = [name for name in vectors if name in point.pulled]
        if not reached:
            return torch.zeros_like(point.outputs)
        (found,) = torch.autograd.grad(
            [point.pulled[name] for name in reached], [point.dummy], [vectors[name] for name in reached],
            retain_graph=True, allow_unused=True,
        )
        return torch.zeros_like(point.outputs) if found is None else found

    def _bend(self, point: _Linearised, tangent: Tensor) -> Tensor:
        """`A (J v)`."""
        if point.slope is None or point.entry is None:
            return torch.zeros_like(tangent)
        (found,) = torch.autograd.grad([point.slope], [point.entry], [tangent], retain_graph=True,
                                       allow_unused=True)
        return torch.zeros_like(tangent) if found is None else found

    def _linearised(self, index: int) -> _Linearised:
        if index in self._kept:
            return self._kept[index]
        pieces = self.objective.pieces
        point = self._linearise(pieces[index])
        self.cost.graphs += 1 / len(pieces)
        if index < self.keep:
            self._kept[index] = point
        return point

    def _linearise(self, piece: Piece) -> _Linearised:
        with self.objective.forwarding():
            outputs = checked_outputs(self.outputs(self.objective.model, piece.data))
            dummy = torch.zeros_like(outputs, requires_grad=True)
            found = torch.autograd.grad(
                outputs, list(self.objective.parameters.values()), dummy, create_graph=True, allow_unused=True
            )
            pulled = {
                name: gradient
                for name, gradient in zip(self.objective.parameters, found, strict=True)
                if gradient is not None and gradient.requires_grad
            }
            refuse_cut_graphs(outputs, pulled.values())
            entry, slope = self._slope(outputs, piece)
        return _Linearised(outputs, dummy, pulled, slope, entry)

    def _slope(self, outputs: Tensor, piece: Piece) -> tuple[Tensor | None, Tensor | None]:
        entry = outputs.detach().requires_grad_(True)
        loss = self.loss(entry, piece.data)
        (slope,) = torch.autograd.grad(loss.reshape(()), [entry], create_graph=True)
        return entry, slope if slope.requires_grad else None


class EmpiricalFisher(GaussNewton):
    """The mean over examples of `g g^T`, where g is the gradient of one example's loss.

    It agrees with the Hessian neither at the start nor at the end of training; it is what per-example
    gradients say about directions (Kunstner, Balles and Hennig, 2019).

    Args:
        model, batches, blocks, dtype, seed, max_examples, weigh, keep, check: as in `Hessian`.
        losses: `losses(model, batch)` -> one loss per example, `[batch]`.

    Raises:
        CaseError, NotDeterministicError: as `Hessian`.
    """

    def __init__(
        self, model: nn.Module, batches: Iterable[Any], losses: Outputs, blocks: Sequence[Block] | None = None, *,
        dtype: torch.dtype = torch.float32, seed: int = 0, max_examples: int | None = None,
        weigh: Weigh | None = None, keep: int = 1, check: bool = True,
    ) -> None:
        super().__init__(
            model, batches, losses, lambda found, batch: found.mean(), blocks, dtype=dtype, seed=seed,
            max_examples=max_examples, weigh=weigh, keep=keep, check=check,
        )

    def _bend(self, point: _Linearised, tangent: Tensor) -> Tensor:
        return tangent / tangent.numel()

    def _slope(self, outputs: Tensor, piece: Piece) -> tuple[Tensor | None, Tensor | None]:
        if outputs.ndim != 1:
            raise CaseError(
                f"losses must have one number per example, found shape {tuple(outputs.shape)}; reduce each "
                "example's loss to one number (reduction='none', then a mean over positions)"
            )
        return None, None


def checked_outputs(outputs: object) -> Tensor:
    """The outputs, if they are one floating-point tensor with a graph.

    Raises:
        CaseError: they are not.
    """
    if not isinstance(outputs, Tensor):
        raise CaseError(
            f"outputs must be one tensor (the logits, say), found {type(outputs).__name__}; pass "
            "outputs=lambda model, batch: model(**batch).logits"
        )
    if not outputs.is_floating_point():
        raise CaseError(f"outputs must be floating-point, found {outputs.dtype}")
    if not outputs.requires_grad:
        raise CaseError("the outputs do not depend on any of the blocks' parameters")
    return outputs
