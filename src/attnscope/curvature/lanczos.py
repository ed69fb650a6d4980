"""Eigenvalues of every block by Lanczos with full reorthogonalisation, with residual bounds.

Lanczos (1950); reorthogonalisation as in Parlett, The Symmetric Eigenvalue Problem (1980).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attnscope.curvature.operator import BlockOperator, Probes, Request

Floats = npt.NDArray[np.float64]
TOP, BOTTOM = "top", "bottom"
NEAR_ZERO = 0.1  # an end smaller than this part of the other one need not be known to its own scale


@dataclass(frozen=True)
class Ritz:
    """What Lanczos knows of one block's spectrum after some steps.

    A Ritz value never lies outside the spectrum, and an eigenvalue lies within `residuals[i]` of
    `values[i]`. That the largest Ritz value has found the largest eigenvalue, and not another one, is not
    proved by a small residual: it is very likely, since the start is random (Kuczynski and Wozniakowski
    1992).

    Attributes:
        block: its name.
        values: Ritz values, ascending.
        residuals: the norm of `H x - value x` for each.
        weights: squared first components, which make `values` a Gauss quadrature of the spectral density.
        steps: products spent on the block.
        converged: whether every end that was asked for met the tolerance.
        top_vector, bottom_vector: Ritz vectors, when asked for.
    """

    block: str
    values: Floats
    residuals: Floats
    weights: Floats
    steps: int
    converged: bool
    top_vector: Tensor | None = field(default=None, repr=False)
    bottom_vector: Tensor | None = field(default=None, repr=False)

    @property
    def top(self) -> float:
        """The largest eigenvalue (signed)."""
        return float(self.values[-1])

    @property
    def bottom(self) -> float:
        """The smallest eigenvalue (signed)."""
        return float(self.values[0])

    @property
    def errors(self) -> Floats:
        """How far the nearest eigenvalue is, estimated: `min(residual, residual^2 / gap)` (Temple).

        The gap is to the neighbouring Ritz value and its residual, so the second form is an estimate and not
        a bound; `residuals` are bounds.
        """
        low, high = self.values - self.residuals, self.values + self.residuals
        below = self.values - np.concatenate([[-np.inf], high[:-1]])
        above = np.concatenate([low[1:], [np.inf]]) - self.values
        gap = np.minimum(below, above)
        squared = np.divide(
            self.residuals**2, gap, out=np.full_like(gap, np.inf), where=(gap > 0) & (len(gap) > 1)
        )
        errors: Floats = np.minimum(self.residuals, squared)
        return errors

    @property
    def top_residual(self) -> float:
        """How far the nearest eigenvalue can be from `top`."""
        return float(self.residuals[-1])

    @property
    def bottom_residual(self) -> float:
        """How far the nearest eigenvalue can be from `bottom`."""
        return float(self.residuals[0])


class _Krylov:
    """One block's Krylov space: orthonormal basis and tridiagonal matrix."""

    def __init__(self, name: str, start: Tensor, max_steps: int) -> None:
        self.name = name
        self.basis = start.new_empty(min(max_steps, start.numel()), start.numel())
        self.basis[0] = start / start.norm()
        self.alphas: list[float] = []
        self.betas: list[float] = []
        self.exhausted = False

    @property
    def last(self) -> Tensor:
        """The basis vector whose product is due."""
        return self.basis[len(self.alphas)]

    def extend(self, product: Tensor) -> None:
        """Takes `H` times the last basis vector."""
        vector = product
        self.alphas.append(float(vector.double() @ self.last.double()))
        known = self.basis[: len(self.alphas)]
        for _ in range(2):  # one pass of Gram-Schmidt loses digits, the second restores them
            vector = vector - known.T @ (known @ vector)
        beta = float(vector.norm())
        largest = max(map(abs, (*self.alphas, *self.betas)))
        rounding = 10 * torch.finfo(vector.dtype).eps * vector.numel() ** 0.5 * largest
        self.betas.append(beta)
        if beta <= rounding or len(known) == vector.numel():
            self.exhausted = True
        elif len(known) < len(self.basis):
            self.basis[len(known)] = vector / beta

    def eigen(self) -> tuple[Floats, Floats]:
        """Eigenvalues and eigenvectors of the tridiagonal matrix."""
        inner = self.betas[: len(self.alphas) - 1]
        matrix = np.diag(self.alphas) + np.diag(inner, 1) + np.diag(inner, -1)
        values, vectors = np.linalg.eigh(matrix)
        return values, vectors

    def ritz(self, ends: Sequence[str], tolerance: float, vectors: bool) -> Ritz:
        """What is known now."""
        values, eigenvectors = self.eigen()
        last = abs(self.betas[-1])
        residuals = last * np.abs(eigenvectors[-1])
        positions = [-1 if end == TOP else 0 for end in ends]
        least = NEAR_ZERO * float(np.abs(values).max())
        met = all(residuals[place] <= tolerance * max(abs(values[place]), least) for place in positions)

        def vector(place: int) -> Tensor | None:
            if not vectors or place not in positions:
                return None
            weights = torch.tensor(eigenvectors[:, place], dtype=self.basis.dtype, device=self.basis.device)
            found: Tensor = self.basis[: len(weights)].T @ weights
            unit: Tensor = found / found.norm()
            return unit

        return Ritz(
            block=self.name, values=values, residuals=residuals, weights=eigenvectors[0] ** 2,
            steps=len(self.alphas), converged=self.exhausted or met, top_vector=vector(-1),
            bottom_vector=vector(0),
        )


def lanczos(
    operator: BlockOperator, blocks: Iterable[str] | None = None, *, max_steps: int = 20,
    tolerance: float = 0.01, ends: Sequence[str] = (TOP,), vectors: bool = False, seed: int = 0,
    at_least: int = 1, start: Callable[[str], Tensor] | None = None, held: int | None = None,
    progress: Callable[[int, int], None] | None = None, until: Callable[[], bool] | None = None,
) -> dict[str, Ritz]:
    """Extreme eigenvalues of every block, all blocks stepping together.

    One step of all blocks is one product per block restricted to its own block; blocks that have converged
    step no more.

    Args:
        operator: whose diagonal blocks are meant.
        blocks: which; None is all.
        max_steps: of each block.
        tolerance: relative residual at which an end counts as converged (an end near zero is held against
            a tenth of the other one); 0 always makes `max_steps`. The error is usually far smaller than the
            residual, but a looser tolerance than 0.01 may stop at an inner eigenvalue.
        ends: `top`, `bottom` or both.
        vectors: whether Ritz vectors are returned.
        seed: of the random starts.
        at_least: steps before an end may count as converged. A single eigenvalue a few percent as large as the
            largest takes several steps to show; before, the bulk stands in its place with a small residual.
        start: block name -> start vector, instead of a random one.
        held: how many numbers of basis vectors are held together; blocks are treated in groups that fit.
            None holds all.
        progress: called with (steps done, steps at most) after each step.
        until: asked after every product; once it says yes, what is known then is returned.

    Returns:
        block name -> what is known of its spectrum; a block that `until` left without a step is missing.

    Raises:
        KeyError: an unknown block.
        ValueError: an unknown end, or no steps.
    """
    names = operator.check_names(operator.names if blocks is None else blocks)
    if max_steps < 1 or not ends or any(end not in (TOP, BOTTOM) for end in ends):
        raise ValueError(
            f"needs max_steps >= 1 and ends among 'top' and 'bottom'; found {max_steps} and {tuple(ends)}"
        )
    probes = Probes(operator, seed)
    found: dict[str, Ritz] = {}
    done, total = 0, max_steps * len(names)
    for group in _groups(names, operator, max_steps, held):
        starts = [start(name) if start else probes.gaussian(name, 0) for name in group]
        active = [_Krylov(name, vector, max_steps) for name, vector in zip(group, starts, strict=True)]
        while active:
            requests = [Request({space.name: space.last}, (space.name,)) for space in active]
            for space, product in zip(active, operator.products(requests), strict=True):
                space.extend(product[space.name])
                done += 1
                if until is not None and until():
                    rest = (space.ritz(ends, tolerance, vectors) for space in active if space.alphas)
                    found |= {ritz.block: ritz for ritz in rest}
                    return {name: found[name] for name in names if name in found}
            still = []
            for space in active:
                ritz = space.ritz(ends, tolerance, vectors=False)
                met = ritz.converged and tolerance > 0 and ritz.steps >= at_least
                if met or space.exhausted or ritz.steps >= max_steps:
                    found[space.name] = space.ritz(ends, tolerance, vectors)
                else:
                    still.append(space)
            active = still
            if progress is not None:
                progress(done, total)
    return {name: found[name] for name in names}


def _groups(
    names: Sequence[str], operator: BlockOperator, max_steps: int, held: int | None
) -> Iterable[list[str]]:
    if held is None:
        yield list(names)
        return
    group: list[str] = []
    room = held
    for name in names:
        need = operator.sizes[name] * min(max_steps, operator.sizes[name])
        if group and need > room:
            yield group
            group, room = [], held
        group.append(name)
        room -= need
    yield group
