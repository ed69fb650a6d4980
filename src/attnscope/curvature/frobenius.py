"""The Frobenius norm of every block: how much curvature there is, whatever its sign.

Girard (1989) and Hutchinson (1990): for random signs `v`, `||H_aa v||^2` has mean `||H_aa||_F^2`.
"""

from __future__ import annotations

from collections.abc import Iterable

from attnscope.curvature.estimate import Estimate, Sums, exactly
from attnscope.curvature.hutchinson import Progress, probed
from attnscope.curvature.operator import BlockOperator


def frobenius_norm(
    operator: BlockOperator, blocks: Iterable[str] | None = None, *, n_probes: int = 10, seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Estimate]:
    """`||H_aa||_F` of every block; exact in a block with no more parameters than probes.

    The square is unbiased; its root is low by a fraction `relative**2 / 2`, less than its standard error.

    Args:
        operator: whose diagonal blocks are meant.
        blocks: which; None is all.
        n_probes: products per block, each restricted to its own block.
        seed: of the signs.
        progress: called with (products done, products in all).

    Returns:
        block name -> norm, with its standard error.

    Raises:
        KeyError: an unknown block.
        ValueError: less than two probes.
    """
    names = operator.check_names(operator.names if blocks is None else blocks)
    sums: dict[str, Sums] = {}
    exact: dict[str, float] = {}
    for name, _, product, is_exact in probed(operator, names, n_probes, seed, progress):
        sample = float(product.double().square().sum())
        if is_exact:
            exact[name] = exact.get(name, 0.0) + sample
        else:
            sums.setdefault(name, Sums()).add(sample)
    squares = {name: exactly(exact[name]) if name in exact else sums[name].estimate() for name in names}
    return {name: square.root() for name, square in squares.items()}
