"""Operators made of other operators: a difference, a penalty, a change of units, all blocks taken as one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import tee

import torch
from torch import Tensor

from attnscope.curvature.operator import BlockOperator, Request


class Difference(BlockOperator):
    """`first - second`: with the Hessian and the Gauss-Newton matrix, the residual part of the Hessian.

    Args:
        first, second: operators on the same blocks.

    Raises:
        ValueError: their blocks or precisions differ.
    """

    def __init__(self, first: BlockOperator, second: BlockOperator) -> None:
        if dict(first.sizes) != dict(second.sizes) or first.dtype != second.dtype:
            raise ValueError("both operators must have the same blocks, sizes and precision")
        self.first, self.second = first, second
        self.sizes = first.sizes
        self.dtype = first.dtype

    @property
    def rounding(self) -> float:
        """That of the coarser operator."""
        return max(self.first.rounding, self.second.rounding)

    def device(self, name: str) -> torch.device:
        """Where the vectors of a block live."""
        return self.first.device(name)

    def products(self, requests: Iterable[Request]) -> Iterator[dict[str, Tensor]]:
        """The products, in the order of the requests."""
        one, other = tee(requests)
        for plus, minus in zip(self.first.products(one), self.second.products(other), strict=True):
            yield {name: plus[name] - minus[name] for name in plus}


class Shifted(BlockOperator):
    """`H + c` with one number c per block: what an L2 penalty adds.

    Args:
        operator: H.
        shifts: block name -> c; blocks left out are not shifted.
    """

    def __init__(self, operator: BlockOperator, shifts: Mapping[str, float]) -> None:
        operator.check_names(shifts)
        self.operator = operator
        self.shifts = dict(shifts)
        self.sizes = operator.sizes
        self.dtype = operator.dtype

    @property
    def rounding(self) -> float:
        """That of the operator inside."""
        return self.operator.rounding

    def device(self, name: str) -> torch.device:
        """Where the vectors of a block live."""
        return self.operator.device(name)

    def products(self, requests: Iterable[Request]) -> Iterator[dict[str, Tensor]]:
        """The products, in the order of the requests."""
        kept: deque[Request] = deque()

        def noted() -> Iterator[Request]:
            for request in requests:
                kept.append(request)
                yield request

        for product in self.operator.products(noted()):
            vectors = kept.popleft().vectors
            yield {
                name: vector + self.shifts.get(name, 0.0) * vectors[name] if name in vectors else vector
                for name, vector in product.items()
            }


class Rescaled(BlockOperator):
    """`D H D` with a diagonal D: the curvature in parameters measured in other units.

    With `D = P^(-1/2)` its eigenvalues are those of `P^-1 H`, what an optimiser with preconditioner P sees.

    Args:
        operator: H.
        scales: block name -> the diagonal of D, flat.

    Raises:
        ValueError: scales are missing, of the wrong size, negative or not finite.
    """

    def __init__(self, operator: BlockOperator, scales: Mapping[str, Tensor]) -> None:
        self.operator = operator
        self.sizes = operator.sizes
        self.dtype = operator.dtype
        self.scales: dict[str, Tensor] = {}
        for name, size in self.sizes.items():
            scale = scales.get(name)
            if scale is None or scale.shape != (size,):
                seen = "none" if scale is None else f"shape {tuple(scale.shape)}"
                raise ValueError(f"block {name!r} needs {size} scales, found {seen}")
            if not bool(scale.isfinite().all()) or bool((scale < 0).any()):
                raise ValueError(f"the scales of block {name!r} must be finite and not negative")
            self.scales[name] = scale.detach().to(operator.device(name), self.dtype)

    @property
    def rounding(self) -> float:
        """That of the operator inside."""
        return self.operator.rounding

    def device(self, name: str) -> torch.device:
        """Where the vectors of a block live."""
        return self.operator.device(name)

    def products(self, requests: Iterable[Request]) -> Iterator[dict[str, Tensor]]:
        """The products, in the order of the requests."""
        changed = (
            Request({name: self.scales[name] * vector for name, vector in request.vectors.items()}, request.out)
            for request in requests
        )
        for product in self.operator.products(changed):
            yield {name: self.scales[name] * vector for name, vector in product.items()}


class Joined(BlockOperator):
    """The same matrix with all its blocks (or some of them) taken as one block named `all`.

    Args:
        operator: cut into blocks.
        blocks: which; None is all.
    """

    def __init__(self, operator: BlockOperator, blocks: Iterable[str] | None = None) -> None:
        self.operator = operator
        self.parts = operator.check_names(operator.names if blocks is None else blocks)
        self.sizes = {"all": sum(operator.sizes[name] for name in self.parts)}
        self.dtype = operator.dtype

    @property
    def rounding(self) -> float:
        """That of the operator inside."""
        return self.operator.rounding

    def device(self, name: str) -> torch.device:
        """Of the first block: the joined vectors live there."""
        return self.operator.device(self.parts[0])

    def products(self, requests: Iterable[Request]) -> Iterator[dict[str, Tensor]]:
        """The products, cut before and joined after."""
        inner = (Request(self._cut(request.vectors), self.parts) for request in requests)
        for product in self.operator.products(inner):
            yield {"all": torch.cat([product[name].to(self.device("all")) for name in self.parts])}

    def _cut(self, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        sizes = [self.operator.sizes[name] for name in self.parts]
        cut = torch.split(vectors["all"], sizes) if "all" in vectors else ()
        return {
            name: piece.to(self.operator.device(name)) for name, piece in zip(self.parts, cut, strict=False)
        }
