"""The coupling of all pairs with few products, where blocks share a few strong directions.

The idea of Hutch++ (Meyer, Musco, Musco and Woodruff, 2021) on either side of every pair. With Q_a and Q_b
orthonormal bases and P_a, P_b the projections on them,

    ||H_ba||^2 = ||H_ba Q_a||^2 + ||Q_b^T H_ba||^2 - ||Q_b^T H_ba Q_a||^2 + ||(1 - P_b) H_ba (1 - P_a)||^2.

The first three terms are exact from products with the columns of Q_a and Q_b, since H is symmetric; the last
is estimated from random signs. A pilot gives the bases of all blocks: in each of its products, every block b
sees one vector of the range of H_b. The signs are fresh, so the estimate is unbiased whatever the bases.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attnscope.curvature.coupling import Coupling, both_sides, from_squares
from attnscope.curvature.estimate import Sums
from attnscope.curvature.operator import BlockOperator, Probes, Request
from attnscope.curvature.ranges import Range

_PILOT, _FRESH = 0, 10_000  # numbers of probes, kept apart so that no probe is used twice


@dataclass(frozen=True)
class Split:
    """How the products of each block are spent: on exact directions and on fresh random signs."""

    exact: int
    fresh: int
    residual: float  # predicted share of the squared norm that the directions leave over

    @property
    def variance(self) -> float:
        """Predicted variance, in units of one plain probe's."""
        return self.residual**2 / self.fresh


def adaptive_coupling(
    operator: BlockOperator, blocks: Iterable[str] | None = None, *, n_probes: int = 3,
    n_pilots: int | None = None, seed: int = 0, progress: Callable[[int, int], None] | None = None,
) -> Coupling:
    """Norms, coupling and traces of all pairs; the pilot decides how the products are spent.

    Where the ranges decay (a trained model), directions are taken out exactly and the rest is sampled.
    Where they do not (at initialisation), all products are plain random signs. The pilot only decides: its
    products enter no norm, because choosing and estimating from the same sample would be biased.

    Args:
        operator: a symmetric matrix.
        blocks: which; None is all.
        n_probes: products per block beside the pilot.
        n_pilots: products of the pilot in all; None is a third of the blocks, at least six.
        seed: of the signs.
        progress: called with (products done, products in all).

    Returns:
        norms, ratios and traces, with standard errors.

    Raises:
        KeyError: an unknown block.
        ValueError: less than two probes.
    """
    if n_probes < 2:
        raise ValueError(f"n_probes must be at least 2, found {n_probes}: one probe tells no standard error")
    names = operator.check_names(operator.names if blocks is None else blocks)
    run = _Run(operator, names, Probes(operator, seed), progress)
    pilots = min(max(6, len(names) // 3) if n_pilots is None else n_pilots, len(names))
    run.total = pilots + n_probes * len(names)
    run.pilot(_spread(names, pilots, seed))
    split = choose_split(list(run.ranges.values()), n_probes)
    run.total += len(names) if split.fresh < 2 else 0
    run.take_exactly(split.exact)
    run.sample(split.fresh)
    return run.result(n_probes)


def choose_split(ranges: Sequence[Range], n_probes: int) -> Split:
    """The split of least predicted variance; the plain one when no split promises less."""
    best = Split(0, n_probes, 1.0)
    for exact in range(1, n_probes):
        left = float(np.mean([1 - item.predicted(exact) for item in ranges]))
        split = Split(exact, n_probes - exact, left**2)
        if split.variance < best.variance:
            best = split
    return best


def _spread(names: Sequence[str], count: int, seed: int) -> list[str]:
    """Some of the blocks, in random order, so that no role or layer is favoured."""
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
    return [names[index] for index in order[:count]]


@dataclass
class _Run:
    """The sums that make the estimate; a pair is `(b, a)`, for `H_ba`, sampled by probes on a."""

    operator: BlockOperator
    names: tuple[str, ...]
    probes: Probes
    progress: Callable[[int, int], None] | None
    done: int = 0
    total: int = 0

    def __post_init__(self) -> None:
        pairs = [(b, a) for b in self.names for a in self.names]
        self.ranges = {name: Range() for name in self.names}
        self.bases: dict[str, Tensor] = {}  # rows are orthonormal
        self.right = dict.fromkeys(pairs, 0.0)  # ||H_ba Q_a||^2
        self.middle = dict.fromkeys(pairs, 0.0)  # ||Q_b^T H_ba Q_a||^2
        self.rest = {pair: Sums() for pair in pairs}  # ||(1 - P_b) H_ba (1 - P_a) z||^2
        self.inner: dict[str, Tensor] = {}  # Q_a^T H_aa Q_a
        self.traces = {name: Sums() for name in self.names}

    def pilot(self, chosen: Sequence[str]) -> None:
        """One product per chosen block; every block gathers what it sees."""
        signs = ((name, self.probes.rademacher(name, _PILOT), self.names) for name in chosen)
        for name, vector, product in self._products(signs):
            for other in self.names:
                self.ranges[other].add(product[other])
            self.traces[name].add(_inner(vector, product[name]))

    def take_exactly(self, k: int) -> None:
        """Products with the basis vectors of every block."""
        for name in self.names:
            like = torch.zeros(
                self.operator.sizes[name], dtype=self.operator.dtype, device=self.operator.device(name)
            )
            self.bases[name] = self.ranges.pop(name).basis(k, like)
            self.inner[name] = like.new_zeros(len(self.bases[name]), len(self.bases[name])).double()
        rows = ((name, row, self.names) for name in self.names for row in self.bases[name])
        columns = dict.fromkeys(self.names, 0)
        for name, _, product in self._products(rows):
            for other in self.names:
                seen = (self.bases[other] @ product[other]).double()
                self.right[other, name] += _inner(product[other], product[other])
                self.middle[other, name] += float(seen @ seen)
                if other == name:
                    self.inner[name][:, columns[name]] = seen
            columns[name] += 1

    def sample(self, n: int) -> None:
        """Fresh signs on every block, what the bases hold taken out; at least two within each block."""
        for number in range(max(n, 2)):
            # A pair of different blocks has a sample from either side; a block with itself needs a second.
            out = None if number < n else 1
            plan = (
                (name, self._left_over(name, number), self.names if out is None else (name,))
                for name in self.names
            )
            for name, vector, product in self._products(plan):
                for other, seen in product.items():
                    held = (self.bases[other] @ seen).double()
                    self.rest[other, name].add(_inner(seen, seen) - float(held @ held))
                self._add_trace(name, number, vector, product[name])

    def _signs(self, name: str, number: int) -> Tensor:
        return self.probes.rademacher(name, _FRESH + number)

    def _left_over(self, name: str, number: int) -> Tensor:
        signs, basis = self._signs(name, number), self.bases[name]
        return signs - basis.T @ (basis @ signs)

    def _add_trace(self, name: str, number: int, vector: Tensor, seen: Tensor) -> None:
        """`z^T H_aa z` of the whole signs z, put together from its part and the exact products."""
        basis = self.bases[name]
        held = (basis @ self._signs(name, number)).double()
        across = float(held @ (basis @ seen).double())
        self.traces[name].add(_inner(vector, seen) + 2 * across + float(held @ self.inner[name] @ held))

    def _products(
        self, plan: Iterable[tuple[str, Tensor, tuple[str, ...]]]
    ) -> Iterator[tuple[str, Tensor, dict[str, Tensor]]]:
        """Block, vector and product; the vectors are made when they are due."""
        waiting: deque[tuple[str, Tensor]] = deque()

        def requests() -> Iterator[Request]:
            for name, vector, out in plan:
                waiting.append((name, vector))
                yield Request({name: vector}, out)

        for product in self.operator.products(requests()):
            yield *waiting.popleft(), product
            self.done += 1
            if self.progress is not None:
                self.progress(self.done, self.total)

    def result(self, n_probes: int) -> Coupling:
        """All norms: the exact terms, and the mean of the samples from either side."""
        n = len(self.names)
        exact = np.zeros((n, n))
        for i, a in enumerate(self.names):
            for j, b in enumerate(self.names):
                middle = (self.middle[b, a] + self.middle[a, b]) / 2
                exact[i, j] = self.right[b, a] + self.right[a, b] - middle
        rest, stderr = both_sides(self.names, self.rest)
        traces = {name: sums.estimate() for name, sums in self.traces.items()}
        return from_squares(self.names, exact + rest, stderr, traces, n_probes, self.operator.rounding)


def _inner(one: Tensor, other: Tensor) -> float:
    return float(one.double() @ other.double())
