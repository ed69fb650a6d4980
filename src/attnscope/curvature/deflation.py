"""The coupling of all pairs with few products, where blocks share a few strong directions.

The idea of Hutch++ (Meyer, Musco, Musco and Woodruff, 2021) on either side of every pair. With Q_a and Q_b
orthonormal bases and P_a, P_b the projections on them,

    ||H_ba||^2 = ||H_ba Q_a||^2 + ||Q_b^T H_ba||^2 - ||Q_b^T H_ba Q_a||^2 + ||(1 - P_b) H_ba (1 - P_a)||^2.

The first three terms are exact from products with the columns of Q_a and Q_b, since H is symmetric; the last
is estimated from random signs. A pilot gives the bases of all blocks: in each of its products, every block b
sees one vector of the range of H_b. The signs are fresh, so the estimate is unbiased whatever the bases.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from attnscope.curvature.coupling import Coupling, Floats, both_sides, from_squares
from attnscope.curvature.estimate import Estimate, Sums
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
    sums = Deflation(operator, names, seed)
    pilots = spread(names, n_pilots, seed)
    done, total = 0, len(pilots) + n_probes * len(names)

    def count() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    perform(operator, sums.pilot(pilots), count)
    split = choose_split(list(sums.ranges.values()), n_probes)
    total += len(names) if split.fresh < 2 else 0
    sums.fix_bases(split.exact)
    signs = (sums.sample(names, number < split.fresh) for number in range(max(split.fresh, 2)))
    perform(operator, chain(sums.exact(), chain.from_iterable(signs)), count)
    return sums.result(n_probes)


def choose_split(ranges: Sequence[Range], n_probes: int) -> Split:
    """The split of least predicted variance; the plain one when no split promises less."""
    best = Split(0, n_probes, 1.0)
    for exact in range(1, n_probes):
        left = float(np.mean([1 - item.predicted(exact) for item in ranges]))
        split = Split(exact, n_probes - exact, left**2)
        if split.variance < best.variance:
            best = split
    return best


def spread(names: Sequence[str], count: int | None, seed: int) -> list[str]:
    """Some of the blocks, in random order, so that no role or layer is favoured; None is a third of them."""
    wanted = max(6, len(names) // 3) if count is None else count
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
    return [names[index] for index in order[:wanted]]


@dataclass(frozen=True)
class Task:
    """One product that is due, and what is done with it."""

    request: Request
    take: Callable[[dict[str, Tensor]], None]


def perform(operator: BlockOperator, tasks: Iterable[Task], after: Callable[[], None]) -> None:
    """Makes the products of the tasks in one sweep; a task is made when its product is due."""
    waiting: deque[Task] = deque()

    def requests() -> Iterator[Request]:
        for task in tasks:
            waiting.append(task)
            yield task.request

    for product in operator.products(requests()):
        waiting.popleft().take(product)
        after()


class Deflation:
    """The sums that make the estimate; a pair is `(b, a)`, for `H_ba`, sampled by probes on a.

    They are consistent after every task, so work may be interrupted between any two.

    Attributes:
        ranges: what the pilot saw, until the bases are fixed.
        bases: block -> rows that are orthonormal, once they are fixed.
        piloted: the pilots made; `taken`, how many basis vectors of each block have been multiplied;
            `drawn`, how many fresh signs of each block have been used.
    """

    def __init__(self, operator: BlockOperator, names: tuple[str, ...], seed: int) -> None:
        self.operator = operator
        self.names = names
        self.probes = Probes(operator, seed)
        pairs = [(b, a) for b in names for a in names]
        self.ranges = {name: Range() for name in names}
        self.bases: dict[str, Tensor] = {}
        self.inner: dict[str, Tensor] = {}  # Q_a^T H_aa Q_a
        self.right = dict.fromkeys(pairs, 0.0)  # ||H_ba Q_a||^2
        self.middle = dict.fromkeys(pairs, 0.0)  # ||Q_b^T H_ba Q_a||^2
        self.rest = {pair: Sums() for pair in pairs}  # ||(1 - P_b) H_ba (1 - P_a) z||^2
        self.traces = {name: Sums() for name in names}
        self.piloted: list[str] = []
        self.taken = dict.fromkeys(names, 0)
        self.drawn = dict.fromkeys(names, 0)

    def pilot(self, chosen: Sequence[str]) -> Iterator[Task]:
        """One product per chosen block that has not been made; every block gathers what it sees."""
        for name in chosen:
            if name not in self.piloted:
                vector = self.probes.rademacher(name, _PILOT)
                yield Task(Request({name: vector}, self.names), partial(self._take_pilot, name, vector))

    def _take_pilot(self, name: str, vector: Tensor, product: dict[str, Tensor]) -> None:
        for other in self.names:
            self.ranges[other].add(product[other])
        self.traces[name].add(_inner(vector, product[name]))
        self.piloted.append(name)

    def fix_bases(self, k: int) -> None:
        """Chooses `k` directions per block from what the pilot saw, and forgets the rest."""
        for name in self.names:
            like = torch.zeros(
                self.operator.sizes[name], dtype=self.operator.dtype, device=self.operator.device(name)
            )
            self.bases[name] = self.ranges[name].basis(k, like)
            self.inner[name] = like.new_zeros(len(self.bases[name]), len(self.bases[name])).double()
        self.ranges = {}

    def exact(self) -> Iterator[Task]:
        """Products with the basis vectors of every block that have not been made."""
        for name in self.names:
            for column in range(self.taken[name], len(self.bases[name])):
                request = Request({name: self.bases[name][column]}, self.names)
                yield Task(request, partial(self._take_exact, name, column))

    def _take_exact(self, name: str, column: int, product: dict[str, Tensor]) -> None:
        for other in self.names:
            seen = (self.bases[other] @ product[other]).double()
            self.right[other, name] += _inner(product[other], product[other])
            self.middle[other, name] += float(seen @ seen)
            if other == name:
                self.inner[name][:, column] = seen
        self.taken[name] += 1

    def sample(self, chosen: Iterable[str], all_rows: bool = True) -> Iterator[Task]:
        """Fresh signs on each chosen block, what the bases hold taken out.

        A pair of different blocks has a sample from either side. A block with itself has one; where it needs
        a second, `all_rows=False` makes it alone, which is cheaper.
        """
        for name in chosen:
            # Asked for when the task before has been made, so that a block may be chosen twice.
            signs = self.probes.rademacher(name, _FRESH + self.drawn[name])
            basis = self.bases[name]
            vector = signs - basis.T @ (basis @ signs)
            self.drawn[name] += 1
            request = Request({name: vector}, self.names if all_rows else (name,))
            yield Task(request, partial(self._take_sample, name, signs, vector))

    def _take_sample(self, name: str, signs: Tensor, vector: Tensor, product: dict[str, Tensor]) -> None:
        for other, seen in product.items():
            held = (self.bases[other] @ seen).double()
            self.rest[other, name].add(_inner(seen, seen) - float(held @ held))
        # z^T H_aa z of the whole signs z, put together from its part and the exact products.
        basis = self.bases[name]
        held = (basis @ signs).double()
        across = float(held @ (basis @ product[name]).double())
        within = float(held @ self.inner[name] @ held)
        self.traces[name].add(_inner(vector, product[name]) + 2 * across + within)

    def squares(self) -> tuple[Floats, Floats]:
        """Squared norms of all pairs, and their standard errors: exact terms plus the mean of the samples."""
        n = len(self.names)
        exact = np.zeros((n, n))
        for i, a in enumerate(self.names):
            for j, b in enumerate(self.names):
                middle = (self.middle[b, a] + self.middle[a, b]) / 2
                exact[i, j] = self.right[b, a] + self.right[a, b] - middle
        rest, stderr = both_sides(self.names, self.rest)
        return exact + rest, stderr

    def result(self, n_probes: int) -> Coupling:
        """Norms, coupling and traces as known now."""
        mean, stderr = self.squares()
        traces = {
            name: moderated_trace(self.traces[name], float(mean[row, row])) for row, name in enumerate(self.names)
        }
        return from_squares(self.names, mean, stderr, traces, n_probes, self.operator.rounding)


def moderated_trace(samples: Sums, square: float, prior: float = 4.0) -> Estimate:
    """A trace from a few samples, whose spread is moderated by what it can be at most.

    The variance of `z^T A z` for random signs is at most `2 ||A||_F^2` (Hutchinson 1989). Two or three samples
    tell their spread badly, and often far too small, so the bound counts as `prior` samples more.

    Args:
        samples: of `z^T A z`.
        square: `||A||_F^2`.
        prior: how many samples the bound is worth.
    """
    if samples.n == 0:
        return samples.estimate()
    told = max(samples.n - 1, 0)
    spread = (samples.squares + prior * 2 * max(square, 0.0)) / (told + prior)
    return Estimate(samples.mean, math.sqrt(spread / samples.n), samples.n)


def _inner(one: Tensor, other: Tensor) -> float:
    return float(one.double() @ other.double())
