"""Products with the Hessian of a loss, whole or restricted to blocks, by double backward on a kept graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from attnscope.anatomy.blocks import Block
from attnscope.curvature.kernels import refuse_cut_graphs
from attnscope.curvature.objective import BatchLoss, Cost, Objective
from attnscope.curvature.operator import Request, SweptOperator
from attnscope.curvature.sharded import spread_as
from attnscope.curvature.slices import gather, parameters_of, scatter
from attnscope.curvature.weighing import Weigh
from attnscope.errors import CaseError

Graph = Mapping[str, Tensor]  # parameter name -> gradient that can be differentiated again


class Hessian(SweptOperator):
    """The Hessian of `sum_p c_p loss(model, piece_p)` in the parameters of some blocks.

    The model is used in eval mode, with fixed randomness and with kernels that have a double backward; its
    tensors are copied at construction, so later training does not change the operator. Frozen parameters
    may be among the blocks: their curvature is computed as if they were trainable. A parameter that the
    loss does not depend on has zero curvature.

    Args:
        model: the user's model (`torch.compile` and data-parallel wrappers are looked through).
        batches: a list of batches, each any nest of mappings, lists, tuples and tensors.
        loss: `loss(model, batch)` -> scalar.
        blocks: the parameters to differentiate in, and how they are cut. None makes one block of every
            trainable parameter.
        dtype: float32 or float64, whatever the model's precision.
        seed: of every random choice in the model's forward pass.
        max_examples: splits batches into pieces of at most this many examples, which bounds memory. The
            loss must then be a sum or a weighted mean over examples; this is checked.
        weigh: `weigh(batch)` -> how much a batch counts in the mean. None reads it from the loss.
        keep: how many pieces' graphs are kept between products. Where there are more pieces than this, none is
            kept, and each is rebuilt for every sweep of products.
        check: whether loss and gradient are checked to repeat exactly.
        screening: computes products in bfloat16: faster where the processor has instructions for it, and good
            enough to find what is large. It is not the place to read a small curvature from.

    Attributes:
        objective: the loss, its value, its gradient, how the data are cut and weighed.
        blocks, sizes: the blocks, and how many parameters each has.
        mine: numbers of the pieces that this process adds up; all of them, unless processes share the work.

    Raises:
        CaseError: the model, batches, blocks or loss cannot be used; the message says which and why.
        NotDeterministicError: loss or gradient do not repeat.
    """

    def __init__(
        self, model: nn.Module, batches: Iterable[Any], loss: BatchLoss,
        blocks: Sequence[Block] | None = None, *, dtype: torch.dtype = torch.float32, seed: int = 0,
        max_examples: int | None = None, weigh: Weigh | None = None, keep: int = 1, check: bool = True,
        screening: bool = False,
    ) -> None:
        self.objective = Objective(
            model, batches, loss, blocks, dtype=dtype, seed=seed, max_examples=max_examples, weigh=weigh,
            check=check, screening=screening,
        )
        self.dtype = dtype
        self.keep = keep
        self.blocks = self.objective.blocks
        self.sizes = {name: block.numel for name, block in self.blocks.items()}
        self.mine: Sequence[int] = range(len(self.objective.pieces))
        self._graphs: dict[int, Graph] = {}
        self._checked = False

    @property
    def rounding(self) -> float:
        """Relative rounding of the products."""
        return float(torch.finfo(torch.bfloat16 if self.objective.screening else self.dtype).eps)

    @property
    def cost(self) -> Cost:
        """What has been spent."""
        return self.objective.cost

    @property
    def n_products(self) -> float:
        """How many products have been made, over all the data."""
        return self.cost.products

    def device(self, name: str) -> torch.device:
        """Where the vectors of a block live."""
        return self.objective.parameters[self.blocks[name].slices[0].parameter].device

    def gradient(self) -> dict[str, Tensor]:
        """Block name -> the gradient of the loss."""
        return {name: vector.clone() for name, vector in self.objective.gradient.items()}

    @property
    def held_at_once(self) -> int:
        """How many numbers of results are held together: one request's, unless graphs must be rebuilt."""
        return 8 * sum(self.sizes.values()) if len(self.mine) > self.keep else 1

    def sweep(self, requests: Sequence[Request]) -> list[dict[str, Tensor]]:
        """The products of some requests, in one pass over the pieces."""
        results: list[dict[str, Tensor]] = [{} for _ in requests]
        with self.objective.computing():
            for index in self.mine:
                piece = self.objective.pieces[index]
                graph = self._graph(index)
                for request, result in zip(requests, results, strict=True):
                    for name, vector in self._product(graph, request).items():
                        part = vector if piece.coefficient == 1.0 else vector * piece.coefficient
                        result[name] = result[name] + part if name in result else part
        self.cost.products += len(requests)
        return results

    def _product(self, graph: Graph, request: Request) -> dict[str, Tensor]:
        parameters = self.objective.parameters
        vectors: dict[str, Tensor] = {}
        for name, vector in request.vectors.items():
            scatter(self.blocks[name], vector.detach(), vectors, parameters)
        reached = [name for name in vectors if name in graph]
        wanted = parameters_of(self.blocks[name] for name in request.out)
        found: Sequence[Tensor | None] = [None] * len(wanted)
        if reached and wanted:
            try:
                found = torch.autograd.grad(
                    [graph[name] for name in reached], [parameters[name] for name in wanted],
                    [spread_as(vectors[name], parameters[name]) for name in reached],
                    retain_graph=True, allow_unused=True,
                )
            except (RuntimeError, NotImplementedError) as error:
                raise _no_double_backward(error) from error
        tensors = dict(zip(wanted, found, strict=True))
        return {name: gather(self.blocks[name], tensors, parameters) for name in request.out}

    def _graph(self, index: int) -> Graph:
        if index in self._graphs:
            return self._graphs[index]
        pieces = self.objective.pieces
        with self.objective.forwarding():
            loss = self.objective.loss_of(pieces[index])
            found = self.objective.differentiate(loss, create_graph=True)
        graph = {name: value for name, value in found.items() if value is not None and value.requires_grad}
        if not self._checked:
            refuse_cut_graphs(loss, graph.values())
            self._checked = True
        self.cost.graphs += 1 / len(pieces)
        if len(self.mine) <= self.keep:  # a graph beside another one would cost what splitting saves
            self._graphs[index] = graph
        if len(pieces) == 1:
            # The graph holds the gradient already: once is enough.
            held = {name: graph[name].detach() if name in graph else found[name] for name in found}
            self.objective.gradient = {
                name: gather(block, held, self.objective.parameters) for name, block in self.blocks.items()
            }
        return graph


def _no_double_backward(error: Exception) -> CaseError:
    return CaseError(
        f"an operation of the model cannot be differentiated twice: {error}. Replace that kernel (a fused or "
        "custom attention, say) by plain operations"
    )
