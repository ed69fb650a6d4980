"""What an estimator needs of a curvature matrix: block sizes and block-restricted products."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Vectors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Request:
    """One product: the vector, by its non-zero blocks, and the blocks of the product that are wanted."""

    vectors: Vectors
    out: tuple[str, ...]


class BlockOperator(ABC):
    """A symmetric matrix cut into blocks, known only by its products.

    Attributes:
        sizes: block name -> number of parameters, in the order of the blocks.
        dtype: of every vector.
        rounding: relative rounding of the products; what is smaller than this part of the largest block's
            curvature is not told apart from nothing.
    """

    sizes: Mapping[str, int]
    dtype: torch.dtype

    @property
    def rounding(self) -> float:
        """Of the vectors' precision, unless the products are made in a lower one."""
        return float(torch.finfo(self.dtype).eps)

    @property
    def names(self) -> tuple[str, ...]:
        """The blocks, in order."""
        return tuple(self.sizes)

    @abstractmethod
    def products(self, requests: Iterable[Request]) -> Iterator[dict[str, Tensor]]:
        """The products, in the order of the requests; they are made in one sweep over the data.

        Raises:
            KeyError: a request names a block that the operator does not have.
        """

    @abstractmethod
    def device(self, name: str) -> torch.device:
        """Where the vectors of a block live."""

    def matvec(self, vectors: Vectors, out: Sequence[str] | None = None) -> dict[str, Tensor]:
        """One product.

        Args:
            vectors: block name -> flat vector; blocks left out are zero.
            out: the blocks of the product that are wanted; fewer blocks cost less. None is all.

        Returns:
            block name -> flat vector, for the blocks in `out`.
        """
        wanted = self.names if out is None else tuple(out)
        return next(iter(self.products([Request(dict(vectors), wanted)])))

    def own(self, name: str, vector: Tensor) -> Tensor:
        """`H_aa v`: the product restricted to one block on both sides."""
        return self.matvec({name: vector}, (name,))[name]

    def own_columns(self, matrices: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`H_aa M_a` for a matrix of columns on every block, in one sweep over the data."""
        plan = [(name, column) for name, matrix in matrices.items() for column in matrix.T]
        products = self.products(Request({name: column}, (name,)) for name, column in plan)
        found: dict[str, list[Tensor]] = {name: [] for name in matrices}
        for (name, _), product in zip(plan, products, strict=True):
            found[name].append(product[name])
        return {
            name: torch.stack(columns, 1) if columns else torch.zeros_like(matrices[name])
            for name, columns in found.items()
        }

    def check_names(self, names: Iterable[str]) -> tuple[str, ...]:
        """The names, if the operator has them all.

        Raises:
            KeyError: it does not.
        """
        wanted = tuple(names)
        unknown = [name for name in wanted if name not in self.sizes]
        if unknown:
            raise KeyError(f"no block {unknown[0]!r}; the blocks are {', '.join(self.names)}")
        return wanted

    def check_request(self, request: Request) -> Request:
        """The request, if its names and sizes fit.

        Raises:
            KeyError: an unknown block.
            ValueError: a vector of the wrong size.
        """
        self.check_names(request.vectors)
        self.check_names(request.out)
        for name, vector in request.vectors.items():
            if vector.shape != (self.sizes[name],):
                raise ValueError(
                    f"the vector for block {name!r} has shape {tuple(vector.shape)}; "
                    f"it must be flat with {self.sizes[name]} entries"
                )
        return request


class SweptOperator(BlockOperator):
    """An operator whose products are sums over data: several requests share one pass over the data."""

    @property
    @abstractmethod
    def held_at_once(self) -> int:
        """How many numbers of results may be held together."""

    @abstractmethod
    def sweep(self, requests: Sequence[Request]) -> list[dict[str, Tensor]]:
        """The products of some requests, in one pass over the data."""

    def products(self, requests: Iterable[Request]) -> Iterator[dict[str, Tensor]]:
        """The products, in the order of the requests, as many together as may be held."""
        waiting = iter(requests)
        while group := self._next_group(waiting):
            yield from self.sweep(group)

    def _next_group(self, waiting: Iterator[Request]) -> list[Request]:
        group: list[Request] = []
        held = 0
        for request in waiting:
            group.append(self.check_request(request))
            held += sum(self.sizes[name] for name in (*request.out, *request.vectors))
            if held >= self.held_at_once:
                break
        return group


class Probes:
    """Random vectors that depend on the seed, the block and the probe's number only, on every device."""

    def __init__(self, operator: BlockOperator, seed: int = 0) -> None:
        self.operator = operator
        self.seed = seed

    def _generator(self, name: str, number: int) -> torch.Generator:
        mixed = self.seed
        for value in (*name.encode(), number):
            mixed = (mixed * 1_000_003 + value + 1) % (2**63 - 25)
        return torch.Generator().manual_seed(mixed)

    def rademacher(self, name: str, number: int) -> Tensor:
        """Independent signs: the probe of least variance for traces and norms."""
        size, place = self.operator.sizes[name], self.operator.device(name)
        bits = torch.randint(0, 2, (size,), generator=self._generator(name, number), dtype=torch.int8)
        return (2 * bits - 1).to(place, self.operator.dtype)

    def signs(self, name: str, first: int, count: int) -> Tensor:
        """Columns of signs, numbered from `first`."""
        return torch.stack([self.rademacher(name, first + number) for number in range(count)], 1)

    def gaussian(self, name: str, number: int) -> Tensor:
        """Independent standard normal entries: a direction without preference."""
        size, place = self.operator.sizes[name], self.operator.device(name)
        vector = torch.randn(size, generator=self._generator(name, number), dtype=torch.float64)
        return vector.to(place, self.operator.dtype)
