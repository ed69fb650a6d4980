"""Trace and diagonal of every block from random signs.

Hutchinson, A stochastic estimator of the trace of the influence matrix (1990); for the diagonal, Bekas,
Kokiopoulou and Saad, An estimator for the diagonal of a matrix (2007).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attnscope.curvature.estimate import Estimate, Sums, exactly
from attnscope.curvature.operator import BlockOperator, Probes, Request

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Diagonal:
    """The diagonal of a block.

    Attributes:
        values: one per parameter of the block.
        stderr: standard error of each; zeros when exact.
        n: number of probes; 0 when exact.
    """

    values: Tensor
    stderr: Tensor
    n: int


def trace(
    operator: BlockOperator, blocks: Iterable[str] | None = None, *, n_probes: int = 10, seed: int = 0,
    together: Iterable[Sequence[str]] | None = None, progress: Progress | None = None,
) -> dict[str, Estimate]:
    """The trace of every block: the mean of `v . H_aa v` over random signs `v` on the block alone.

    Signs on the block alone (and not on all parameters) keep the other blocks' noise out. A block with no
    more parameters than probes is summed exactly.

    Args:
        operator: whose diagonal blocks are meant.
        blocks: which; None is all.
        n_probes: products per block, each restricted to its own block.
        seed: of the signs.
        together: groups of blocks that share their products, such as the heads of one projection. A group
            costs no more than one block; the noise of the blocks in it adds up, and is in the errors.
        progress: called with (products done, products in all).

    Returns:
        block name -> trace, with its standard error.

    Raises:
        KeyError: an unknown block.
        ValueError: less than two probes, which tell no standard error.
    """
    sums: dict[str, Sums] = {}
    exact: dict[str, float] = {}
    for name, probe, product, is_exact in probed(operator, blocks, n_probes, seed, progress, together):
        sample = float(probe.double() @ product.double())
        if is_exact:
            exact[name] = exact.get(name, 0.0) + sample
        else:
            sums.setdefault(name, Sums()).add(sample)
    names = operator.names if blocks is None else tuple(blocks)
    return {name: exactly(exact[name]) if name in exact else sums[name].estimate() for name in names}


def diagonal(
    operator: BlockOperator, blocks: Iterable[str] | None = None, *, n_probes: int = 10, seed: int = 0,
    together: Iterable[Sequence[str]] | None = None, progress: Progress | None = None,
) -> dict[str, Diagonal]:
    """The diagonal of every block: the mean of `v * H_aa v` over random signs `v`.

    Args, Raises: as `trace`.

    Returns:
        block name -> diagonal, with standard errors.
    """
    means: dict[str, Tensor] = {}
    squares: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    for name, probe, product, is_exact in probed(operator, blocks, n_probes, seed, progress, together):
        sample = (probe * product).double()
        if name not in means:
            means[name], squares[name] = torch.zeros_like(sample), torch.zeros_like(sample)
        if is_exact:
            means[name] += sample
            counts[name] = 0
            continue
        counts[name] = count = counts.get(name, 0) + 1
        step = sample - means[name]
        means[name] += step / count
        squares[name] += step * (sample - means[name])
    return {
        name: Diagonal(
            means[name], (squares[name] / (n * (n - 1))).sqrt() if n else torch.zeros_like(means[name]), n
        )
        for name, n in counts.items()
    }


def probed(
    operator: BlockOperator, blocks: Iterable[str] | None, n_probes: int, seed: int,
    progress: Progress | None, together: Iterable[Sequence[str]] | None = None,
) -> Iterator[tuple[str, Tensor, Tensor, bool]]:
    """Random signs on one block (or one group of blocks) at a time, and what each block sees of its own.

    Args: as `trace`.

    Yields:
        `(block, probe, product, exact)`; in an exact block the probes are its unit vectors, once each.

    Raises:
        KeyError, ValueError: as `trace`.
    """
    if n_probes < 2:
        raise ValueError(f"n_probes must be at least 2, found {n_probes}: one probe tells no standard error")
    names = operator.check_names(operator.names if blocks is None else blocks)
    probes = Probes(operator, seed)
    groups = _groups(operator, names, together)
    plan = [(group, number) for number in range(n_probes) for group in groups
            if len(group) > 1 or number < operator.sizes[group[0]]]
    made: deque[dict[str, Tensor]] = deque()

    def requests() -> Iterator[Request]:
        for group, number in plan:
            exact = len(group) == 1 and operator.sizes[group[0]] <= n_probes
            made.append({
                name: _unit(operator, name, number) if exact else probes.rademacher(name, number) for name in group
            })
            yield Request(made[-1], group)

    for done, ((group, _), product) in enumerate(zip(plan, operator.products(requests()), strict=True)):
        vectors = made.popleft()
        for name in group:
            yield name, vectors[name], product[name], len(group) == 1 and operator.sizes[name] <= n_probes
        if progress is not None:
            progress(done + 1, len(plan))


def _groups(
    operator: BlockOperator, names: Sequence[str], together: Iterable[Sequence[str]] | None
) -> list[tuple[str, ...]]:
    """Every block in one group: those in `together` as given, the others alone.

    Raises:
        ValueError: a block is in two groups.
    """
    groups = [tuple(name for name in operator.check_names(group) if name in names) for group in together or ()]
    grouped = [name for group in groups for name in group]
    if len(set(grouped)) < len(grouped):
        raise ValueError("a block is in two groups of `together`")
    return [group for group in groups if group] + [(name,) for name in names if name not in grouped]


def _unit(operator: BlockOperator, name: str, number: int) -> Tensor:
    vector = torch.zeros(operator.sizes[name], dtype=operator.dtype, device=operator.device(name))
    vector[number] = 1
    return vector
