"""XTrace and XDiag: trace and diagonal of every block, each probe tested on the range of all others.

Epperly, Tropp and Webber, XTrace: Making the most of every sample in stochastic trace estimation (2024).

For signs W (one column w_i per probe), Y = AW = QR and Z = AQ. Leaving probe i out removes one direction
Q s_i from the range, where s_i is orthogonal to every column of R but the i-th. Each probe then gives an
estimate that is unbiased, because w_i is independent of the range of the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from attnscope.curvature.estimate import Estimate, Sums
from attnscope.curvature.hutchinson import Diagonal
from attnscope.curvature.meyer2020hutchpp import exact_traces
from attnscope.curvature.operator import BlockOperator, Probes


@dataclass(frozen=True)
class _Sketch:
    """`Y = QR = AW` and `Z = AQ` of one block, in float64; `rounding` is that of the products."""

    W: Tensor
    Q: Tensor
    R: Tensor
    Z: Tensor
    rounding: float

    def left_out(self) -> Tensor:
        """Column i: the unit vector s_i, orthogonal to all columns of R but the i-th.

        It is zero where the others span the i-th column too: leaving that probe out takes nothing away.
        """
        count = self.R.shape[1]
        found = torch.zeros_like(self.R)
        for left_out in range(count):
            rest = self.R[:, [index for index in range(count) if index != left_out]]
            U, values, _ = torch.linalg.svd(rest, full_matrices=False)
            U = U[:, values > self.rounding * values[0]]
            column = self.R[:, left_out]
            away = column - U @ (U.T @ column)
            if away.norm() > self.rounding * column.norm():
                found[:, left_out] = away / away.norm()
        return found


def xtrace(
    operator: BlockOperator, blocks: Iterable[str] | None = None, *, n_products: int = 12, seed: int = 0
) -> dict[str, Estimate]:
    """The trace of every block.

    As Hutch++ it is best where the spectrum decays; it gets more from the same number of products. A block
    with no more parameters than products is summed exactly.

    Args:
        operator: whose diagonal blocks are meant.
        blocks: which; None is all.
        n_products: per block, each restricted to its own block; half of them are probes.
        seed: of the signs.

    Returns:
        block name -> trace, with its standard error (the estimates of single probes are nearly independent).

    Raises:
        KeyError: an unknown block.
        ValueError: less than four products.
    """
    names = operator.check_names(operator.names if blocks is None else blocks)
    found = exact_traces(operator, names, n_products)
    for name, sketch in _sketches(operator, [n for n in names if n not in found], n_products, seed).items():
        H, S = sketch.Q.T @ sketch.Z, sketch.left_out()
        coefficients = sketch.Q.T @ sketch.W
        # What the others' range holds of probe i: all of Q, less the direction s_i.
        C = coefficients - S * (S * coefficients).sum(0)
        plain = (sketch.W * (sketch.Q @ sketch.R)).sum(0)
        across = (C * sketch.R).sum(0) + (C * (sketch.Z.T @ sketch.W)).sum(0)
        samples = H.trace() - (S * (H @ S)).sum(0) + plain - across + (C * (H @ C)).sum(0)
        sums = Sums()
        for sample in samples.tolist():
            sums.add(sample)
        found[name] = sums.estimate()
    return {name: found[name] for name in names}


def xdiag(
    operator: BlockOperator, blocks: Iterable[str] | None = None, *, n_products: int = 12, seed: int = 0
) -> dict[str, Diagonal]:
    """The diagonal of every block.

    Args, Raises: as `xtrace`.

    Returns:
        block name -> diagonal, with standard errors.
    """
    names = operator.check_names(operator.names if blocks is None else blocks)
    small = [name for name in names if operator.sizes[name] <= n_products]
    units = {
        name: torch.eye(operator.sizes[name], dtype=operator.dtype, device=operator.device(name))
        for name in small
    }
    found = {
        name: Diagonal(block.double().diag(), torch.zeros_like(block.double().diag()), 0)
        for name, block in operator.own_columns(units).items()
    }
    for name, sketch in _sketches(operator, [n for n in names if n not in small], n_products, seed).items():
        S = sketch.left_out()
        away, seen = sketch.Q @ S, sketch.Z @ S
        held = (sketch.Q * sketch.Z).sum(1, keepdim=True) - away * seen
        samples = held + sketch.W * away * (S * sketch.R).sum(0)
        n = samples.shape[1]
        found[name] = Diagonal(samples.mean(1), samples.std(1) / n**0.5, n)
    return {name: found[name] for name in names}


def _sketches(
    operator: BlockOperator, names: Iterable[str], n_products: int, seed: int
) -> dict[str, _Sketch]:
    if n_products < 4:
        raise ValueError(f"n_products must be at least 4, found {n_products}")
    probes = Probes(operator, seed)
    W = {name: probes.signs(name, 0, n_products // 2) for name in names}
    factors = {name: torch.linalg.qr(Y.double()) for name, Y in operator.own_columns(W).items()}
    bases = {name: Q.to(operator.dtype) for name, (Q, _) in factors.items()}
    products = operator.own_columns(bases)
    rounding = 100 * torch.finfo(operator.dtype).eps
    return {
        name: _Sketch(W[name].double(), Q, R, products[name].double(), rounding)
        for name, (Q, R) in factors.items()
    }
