"""The spectral density of every block by stochastic Lanczos quadrature, and what follows from it.

Ubaru, Chen and Saad, Fast estimation of tr(f(A)) via stochastic Lanczos quadrature (2017); Lin, Saad and
Yang, Approximating spectral densities of large matrices (2016).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attnscope.curvature.estimate import Estimate, Sums, exactly
from attnscope.curvature.lanczos import Ritz, lanczos
from attnscope.curvature.operator import BlockOperator, Probes, Request

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Spectrum:
    """One block's spectrum: quadrature nodes and weights of several probes, or all eigenvalues.

    A probe of m steps integrates polynomials up to degree 2m - 1 exactly, so sums of powers of eigenvalues
    are unbiased. Sums of other functions (absolute values, shares of negative mass) also carry a quadrature
    error, which falls with the number of steps and is not part of the standard error.

    Attributes:
        block: its name.
        size: number of eigenvalues.
        nodes, weights: one array per probe; the weights of a probe sum to 1.
        exact: whether `nodes` are all eigenvalues.
    """

    block: str
    size: int
    nodes: tuple[Floats, ...]
    weights: tuple[Floats, ...]
    exact: bool

    def sum_of(self, function: Callable[[Floats], Floats]) -> Estimate:
        """`sum_i function(eigenvalue_i)`."""
        samples = Sums()
        for nodes, weights in zip(self.nodes, self.weights, strict=True):
            samples.add(self.size * float(weights @ function(nodes)))
        return exactly(samples.mean) if self.exact else samples.estimate()

    def trace(self) -> Estimate:
        """The sum of the eigenvalues."""
        return self.sum_of(lambda values: values)

    def frobenius_norm(self) -> Estimate:
        """The root of the sum of their squares."""
        return self.sum_of(np.square).root()

    def negative_share(self) -> Estimate:
        """`sum of |negative eigenvalues| / sum of |eigenvalues|`: 0 where convex, 1/2 at a balanced saddle."""
        return self._ratio(lambda values: np.maximum(-values, 0.0), np.abs)

    def effective_rank(self) -> Estimate:
        """`(sum of squares)^2 / sum of fourth powers`: how many directions carry the curvature."""
        top, bottom = self._powers(2), self._powers(4)
        if not bottom.any():
            return Estimate(math.nan, math.nan, 0)
        value = float(top.mean() ** 2 / bottom.mean())
        if self.exact:
            return exactly(value)
        relative = 2 * top / top.mean() - bottom / bottom.mean()
        n = len(relative)
        return Estimate(value, abs(value) * float(relative.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan, n)

    def _powers(self, power: int) -> Floats:
        return np.array([
            self.size * float(weights @ nodes**power)
            for nodes, weights in zip(self.nodes, self.weights, strict=True)
        ])

    def _ratio(self, above: Callable[[Floats], Floats], below: Callable[[Floats], Floats]) -> Estimate:
        pairs = list(zip(self.nodes, self.weights, strict=True))
        tops = np.array([float(weights @ above(nodes)) for nodes, weights in pairs])
        bottoms = np.array([float(weights @ below(nodes)) for nodes, weights in pairs])
        if not bottoms.mean() > 0:
            return Estimate(math.nan, math.nan, 0)
        value = float(tops.mean() / bottoms.mean())
        if self.exact:
            return exactly(value)
        # Ratio of two means of the same probes: the spread of the linearised ratio.
        spread = (tops - value * bottoms) / bottoms.mean()
        n = len(spread)
        return Estimate(value, float(spread.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan, n)

    def density(self, grid: Floats, width: float) -> tuple[Floats, Floats]:
        """The density of eigenvalues on a grid, each smeared by a normal of standard deviation `width`.

        Returns:
            the density (it integrates to 1) and its standard error.
        """
        curves = np.stack([
            (weights * np.exp(-0.5 * ((grid[:, None] - nodes) / width) ** 2)).sum(1)
            / (width * math.sqrt(2 * math.pi))
            for nodes, weights in zip(self.nodes, self.weights, strict=True)
        ])
        n = len(curves)
        if self.exact:
            return curves[0], np.zeros_like(grid)
        return curves.mean(0), curves.std(0, ddof=1) / math.sqrt(n) if n > 1 else np.full_like(grid, np.nan)


def slq(
    operator: BlockOperator, blocks: Iterable[str] | None = None, *, n_probes: int = 4, n_steps: int = 20,
    seed: int = 0, held: int | None = None, progress: Callable[[int, int], None] | None = None,
) -> dict[str, Spectrum]:
    """The spectrum of every block.

    A block that has no more parameters than `n_probes * n_steps` is diagonalised instead, which costs no
    more products and is exact.

    Args:
        operator: whose diagonal blocks are meant.
        blocks: which; None is all.
        n_probes: random starts per block.
        n_steps: Lanczos steps per start, with full reorthogonalisation: ghost eigenvalues would be counted.
        seed: of the starts.
        held: how many numbers of basis vectors are held together; None holds all.
        progress: called with (products done, products at most).

    Returns:
        block name -> spectrum.

    Raises:
        KeyError: an unknown block.
        ValueError: less than two probes or steps.
    """
    if n_probes < 2 or n_steps < 2:
        raise ValueError(f"needs at least 2 probes and 2 steps; found {n_probes} and {n_steps}")
    names = operator.check_names(operator.names if blocks is None else blocks)
    small = [name for name in names if operator.sizes[name] <= n_probes * n_steps]
    large = [name for name in names if name not in small]
    probes = Probes(operator, seed)
    found = {name: _diagonalised(operator, name) for name in small}
    nodes: dict[str, list[Ritz]] = {name: [] for name in large}
    for number in range(n_probes if large else 0):

        def start(name: str, number: int = number) -> Tensor:
            return probes.rademacher(name, number)

        def report(done: int, total: int, number: int = number) -> None:
            if progress is not None:
                progress(number * total + done, n_probes * total)

        ritz = lanczos(operator, large, max_steps=n_steps, tolerance=0, start=start, held=held, progress=report)
        for name in large:
            nodes[name].append(ritz[name])
    for name in large:
        found[name] = Spectrum(
            name, operator.sizes[name], tuple(item.values for item in nodes[name]),
            tuple(item.weights for item in nodes[name]), exact=False,
        )
    return {name: found[name] for name in names}


def _diagonalised(operator: BlockOperator, name: str) -> Spectrum:
    size = operator.sizes[name]
    units = torch.eye(size, dtype=operator.dtype, device=operator.device(name))
    columns = [product[name] for product in operator.products(Request({name: unit}, (name,)) for unit in units)]
    matrix = torch.stack(columns).double().cpu()
    values = torch.linalg.eigvalsh((matrix + matrix.T) / 2).numpy()
    return Spectrum(name, size, (values,), (np.full(size, 1 / size),), exact=True)
