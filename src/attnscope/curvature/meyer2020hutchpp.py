"""Hutch++: the trace of every block, where a few directions carry most of it.

Meyer, Musco, Musco and Woodruff, Hutch++: Optimal stochastic trace estimation (2020).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from attnscope.curvature.estimate import Estimate, Sums, exactly
from attnscope.curvature.operator import BlockOperator, Probes


def hutchpp(
    operator: BlockOperator, blocks: Iterable[str] | None = None, *, n_products: int = 12, seed: int = 0
) -> dict[str, Estimate]:
    """The trace of every block: exact on the range of a third of the probes, Hutchinson on the rest.

    `tr(Q^T A Q) + mean g^T (1 - QQ^T) A (1 - QQ^T) g`. It beats plain Hutchinson where the spectrum decays,
    and loses where it is flat or where eigenvalues of both signs cancel. A block with no more parameters
    than products is summed exactly.

    Args:
        operator: whose diagonal blocks are meant.
        blocks: which; None is all.
        n_products: per block, each restricted to its own block.
        seed: of the signs.

    Returns:
        block name -> trace, with the standard error of its random part.

    Raises:
        KeyError: an unknown block.
        ValueError: less than four products: two of them must be left for the random part.
    """
    if n_products < 4:
        raise ValueError(f"n_products must be at least 4, found {n_products}")
    names = operator.check_names(operator.names if blocks is None else blocks)
    found = exact_traces(operator, names, n_products)
    rest = [name for name in names if name not in found]
    k = n_products // 3
    probes = Probes(operator, seed)
    signs = {name: probes.signs(name, 0, k) for name in rest}
    bases = {name: torch.linalg.qr(range_)[0] for name, range_ in operator.own_columns(signs).items()}
    inner = {
        name: float((bases[name].double() * product.double()).sum())
        for name, product in operator.own_columns(bases).items()
    }
    fresh = {}
    for name in rest:
        whole = probes.signs(name, k, n_products - 2 * k)
        fresh[name] = whole - bases[name] @ (bases[name].T @ whole)
    for name, product in operator.own_columns(fresh).items():
        sums = Sums()
        for sample in (fresh[name].double() * product.double()).sum(0).tolist():
            sums.add(sample)
        residual = sums.estimate()
        found[name] = Estimate(inner[name] + residual.value, residual.stderr, residual.n)
    return {name: found[name] for name in names}


def exact_traces(operator: BlockOperator, names: Iterable[str], n_products: int) -> dict[str, Estimate]:
    """The traces of the blocks that have no more parameters than products, by their unit vectors."""
    units = {
        name: torch.eye(operator.sizes[name], dtype=operator.dtype, device=operator.device(name))
        for name in names if operator.sizes[name] <= n_products
    }
    return {name: exactly(float(block.double().trace())) for name, block in operator.own_columns(units).items()}
