"""How strongly two blocks bend together: `||H_ab||_F`, and the coupling, which no rescaling changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attnscope.curvature.estimate import Estimate, Sums
from attnscope.curvature.operator import BlockOperator, Probes, Request

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Coupling:
    """Frobenius norms of all pairs of blocks, and the coupling `||H_ab|| / sqrt(||H_aa|| ||H_bb||)`.

    The coupling does not change when a block's parameters are measured in other units. It is not a
    correlation and can exceed 1, because the Hessian is indefinite. It is NaN where a block is flat.

    Attributes:
        blocks: the labels of both axes.
        norms, norm_stderr: `||H_ab||_F` and its standard error.
        ratios, ratio_stderr: the coupling and its standard error (delta method; the three norms of a ratio
            are taken as independent).
        traces: block -> trace, from the same products.
        n_probes: probes per block.
    """

    blocks: tuple[str, ...]
    norms: Floats
    norm_stderr: Floats
    ratios: Floats
    ratio_stderr: Floats
    traces: dict[str, Estimate]
    n_probes: int

    def norm(self, a: str, b: str) -> Estimate:
        """`||H_ab||_F`."""
        i, j = self.blocks.index(a), self.blocks.index(b)
        return Estimate(float(self.norms[i, j]), float(self.norm_stderr[i, j]), self.n_probes)

    def ratio(self, a: str, b: str) -> Estimate:
        """The coupling of two blocks."""
        i, j = self.blocks.index(a), self.blocks.index(b)
        return Estimate(float(self.ratios[i, j]), float(self.ratio_stderr[i, j]), self.n_probes)


def coupling(
    operator: BlockOperator, blocks: Iterable[str] | None = None, *, n_probes: int = 4, seed: int = 0,
    once: bool = False, progress: Callable[[int, int], None] | None = None,
) -> Coupling:
    """Estimates all pairs from random signs on one block at a time.

    For signs `v` on block a, `||(H v)_b||^2` has mean `||H_ab||_F^2` for every b at once, and `v . (H v)_a`
    has mean `tr H_aa`. Each pair of different blocks gets a sample from either side, or with `once` from one: that
    costs a third less and tells half as much.

    Args:
        operator: a symmetric matrix.
        blocks: which; None is all.
        n_probes: products per block.
        seed: of the signs.
        once: whether each pair is sampled from its later block only.
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
    probes = Probes(operator, seed)
    plan = [(name, number) for number in range(n_probes) for name in names]
    seen_from = {name: names[: row + 1] if once else names for row, name in enumerate(names)}
    squares = {(a, b): Sums() for a in names for b in names}
    traces = {name: Sums() for name in names}

    def requests() -> Iterator[Request]:
        for name, number in plan:
            yield Request({name: probes.rademacher(name, number)}, seen_from[name])

    for done, ((a, number), product) in enumerate(zip(plan, operator.products(requests()), strict=True)):
        for b in product:
            squares[a, b].add(float(product[b].double().square().sum()))
        traces[a].add(float(probes.rademacher(a, number).double() @ product[a].double()))
        if progress is not None:
            progress(done + 1, len(plan))
    mean, stderr = both_sides(names, squares)
    found = {name: sums.estimate() for name, sums in traces.items()}
    return from_squares(names, mean, stderr, found, n_probes, operator.rounding)


@dataclass(frozen=True)
class Rows:
    """`||H_ba||_F` from groups a of blocks to single blocks b, such as from projections to heads.

    Attributes:
        blocks, groups: the labels of the axes.
        norms, stderr: `[block, group]`.
    """

    blocks: tuple[str, ...]
    groups: tuple[str, ...]
    norms: Floats
    stderr: Floats


def row_norms(
    operator: BlockOperator, groups: Mapping[str, Iterable[str]], *, n_probes: int = 4, seed: int = 0
) -> Rows:
    """How strongly each block bends together with whole groups of blocks, for one product per group and probe.

    With heads as blocks and projections as groups, every head's row costs what the projections' matrix costs;
    columns by head would need one product each.

    Args:
        operator: a symmetric matrix.
        groups: name -> blocks.
        n_probes: products per group.
        seed: of the signs.

    Returns:
        norms with standard errors.

    Raises:
        KeyError: an unknown block.
        ValueError: less than two probes.
    """
    if n_probes < 2:
        raise ValueError(f"n_probes must be at least 2, found {n_probes}: one probe tells no standard error")
    members = {name: operator.check_names(group) for name, group in groups.items()}
    probes = Probes(operator, seed)
    plan = [(name, number) for number in range(n_probes) for name in members]
    squares = {(b, a): Sums() for b in operator.names for a in members}
    requests = (
        Request({block: probes.rademacher(block, number) for block in members[name]}, operator.names)
        for name, number in plan
    )
    for (a, _), product in zip(plan, operator.products(requests), strict=True):
        for b, vector in product.items():
            squares[b, a].add(float(vector.double().square().sum()))
    shape = len(operator.names), len(members)
    found = [squares[b, a].estimate().root() for b in operator.names for a in members]
    return Rows(
        operator.names, tuple(members), np.array([item.value for item in found]).reshape(shape),
        np.array([item.stderr for item in found]).reshape(shape),
    )


def both_sides(
    names: tuple[str, ...], samples: Mapping[tuple[str, str], Sums], prior: float = 4.0
) -> tuple[Floats, Floats]:
    """Means and standard errors of all pairs, from samples on either side of each.

    A spread that is told by two samples is hardly told at all, so each pair's is moderated by the mean
    relative spread of all pairs, which counts as `prior` samples more (Smyth, Linear models and empirical
    Bayes methods, 2004). Squared norms are skewed and their spread grows with their mean, so a mean that is
    too low would come with an error that is too small: the spread is taken one standard error further up.
    """
    n = len(names)
    mean, spread, count = np.zeros((n, n)), np.zeros((n, n)), np.ones((n, n))
    for i, a in enumerate(names):
        for j, b in enumerate(names[: i + 1]):
            sums = samples[a, b] if a == b else samples[a, b].merged(samples[b, a])
            mean[i, j] = mean[j, i] = sums.mean
            count[i, j] = count[j, i] = sums.n
            spread[i, j] = spread[j, i] = sums.squares / max(sums.n - 1, 1)
    positive = mean > 0
    relative = np.divide(spread, mean**2, out=np.zeros_like(mean), where=positive)
    common = float(relative[positive].mean()) if positive.any() else 0.0
    relative = ((count - 1) * relative + prior * common) / (count - 1 + prior)
    error = np.sqrt(np.divide(relative, count, out=np.full_like(relative, np.nan), where=count > 0))
    return mean, np.where(positive, mean * error * (1 + error), 0.0)


def from_squares(
    names: tuple[str, ...], mean: Floats, stderr: Floats, traces: dict[str, Estimate], n_probes: int,
    rounding: float,
) -> Coupling:
    """Norms and ratios from squared norms and their standard errors.

    A block whose own norm is below rounding, beside the largest one, is flat: its ratios are NaN.
    """
    norms = np.sqrt(np.maximum(mean, 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        norm_stderr = np.where(stderr == 0, 0.0, stderr / (2 * norms))
        own = np.where(np.diag(norms) > rounding * norms.max(), np.diag(norms), np.nan)
        ratios = norms / np.sqrt(np.outer(own, own))
        relative = norm_stderr / norms
        of_own = np.diag(relative) / 2
        spread = relative**2 + (of_own**2)[:, None] + (of_own**2)[None, :]
        ratio_stderr = ratios * np.sqrt(spread)
    np.fill_diagonal(ratio_stderr, np.where(np.isnan(own), np.nan, 0.0))
    return Coupling(names, norms, norm_stderr, ratios, ratio_stderr, traces, n_probes)
