"""The directions in which two blocks bend together most: the top singular pairs of `H_ab`.

Golub and Kahan, Calculating the singular values and pseudo-inverse of a matrix (1965): Lanczos on
`[[0, H_ab], [H_ba, 0]]`, whose eigenvalues are plus and minus the singular values.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attnscope.curvature.operator import BlockOperator, Probes, Request


@dataclass(frozen=True)
class SingularPair:
    """The largest singular value of `H_ab` and its vectors.

    Attributes:
        a, b: the blocks.
        value: an estimate from below: the largest singular value is at least this.
        residual: a singular value lies within this of `value`.
        left, right: unit vectors on a and on b, with `H_ab right = value left`.
        steps: products spent.
    """

    a: str
    b: str
    value: float
    residual: float
    left: Tensor = field(repr=False)
    right: Tensor = field(repr=False)
    steps: int


def top_singular_pairs(
    operator: BlockOperator, pairs: Iterable[tuple[str, str]], *, max_steps: int = 20, tolerance: float = 0.01,
    seed: int = 0,
) -> dict[tuple[str, str], SingularPair]:
    """The top singular pair of `H_ab` for some pairs of blocks, such as query and key of every layer.

    Each step of a pair is two products, one from either block, each pruned to the other block.

    Args:
        operator: a symmetric matrix.
        pairs: of different blocks.
        max_steps: of each pair.
        tolerance: relative residual at which a pair has converged.
        seed: of the random starts.

    Returns:
        pair -> its top singular value and vectors.

    Raises:
        KeyError: an unknown block.
        ValueError: no steps.
    """
    if max_steps < 1:
        raise ValueError(f"max_steps must be at least 1, found {max_steps}")
    probes = Probes(operator, seed)
    found: dict[tuple[str, str], SingularPair] = {}
    active = []
    order = tuple(dict.fromkeys(pairs))
    for a, b in order:
        operator.check_names((a, b))
        active.append(_Bidiagonal(a, b, probes.gaussian(b, 0)))
    while active:
        to_a = operator.products([Request({run.b: run.right[-1]}, (run.a,)) for run in active])
        for run, product in zip(active, to_a, strict=True):
            run.take_left(product[run.a])
        to_b = operator.products([Request({run.a: run.left[-1]}, (run.b,)) for run in active])
        for run, product in zip(active, to_b, strict=True):
            run.take_right(product[run.b])
        still = []
        for run in active:
            pair = run.pair()
            if run.exhausted or pair.residual <= tolerance * pair.value or len(run.alphas) >= max_steps:
                found[run.a, run.b] = pair
            else:
                still.append(run)
        active = still
    return {pair: found[pair] for pair in order}


class _Bidiagonal:
    """`H_ab V = U B` with B upper bidiagonal; all vectors are reorthogonalised."""

    def __init__(self, a: str, b: str, start: Tensor) -> None:
        self.a, self.b = a, b
        self.left: list[Tensor] = []
        self.right: list[Tensor] = [start / start.norm()]
        self.alphas: list[float] = []
        self.betas: list[float] = []
        self.exhausted = False

    def take_left(self, product: Tensor) -> None:
        """Takes `H_ab` times the last right vector."""
        vector, length = _away(product, self.left)
        self.alphas.append(length)
        self.left.append(vector)

    def take_right(self, product: Tensor) -> None:
        """Takes `H_ba` times the last left vector."""
        vector, length = _away(product, self.right)
        self.betas.append(length)
        largest = max(*self.alphas, *self.betas)
        rounding = 10 * torch.finfo(product.dtype).eps * product.numel() ** 0.5 * largest
        full = len(self.right) == vector.numel() or len(self.left) == self.left[0].numel()
        if length <= rounding or self.alphas[-1] <= rounding or full:
            self.exhausted = True
        self.right.append(vector)

    def pair(self) -> SingularPair:
        """The top singular pair of the bidiagonal matrix, in the blocks' own coordinates."""
        n = len(self.alphas)
        B = torch.diag(torch.tensor(self.alphas, dtype=torch.float64))
        for index, beta in enumerate(self.betas[: n - 1]):
            B[index, index + 1] = beta
        U, values, V = torch.linalg.svd(B)
        left = sum((float(w) * v for w, v in zip(U[:, 0], self.left, strict=True)), torch.zeros_like(self.left[0]))
        right = sum(
            (float(w) * v for w, v in zip(V[0], self.right[:n], strict=True)), torch.zeros_like(self.right[0])
        )
        residual = self.betas[-1] * abs(float(U[-1, 0]))
        return SingularPair(
            self.a, self.b, float(values[0]), residual, _unit(left), _unit(right), 2 * n
        )


def _away(vector: Tensor, basis: list[Tensor]) -> tuple[Tensor, float]:
    for _ in range(2):  # one pass of Gram-Schmidt loses digits, the second restores them
        for known in basis:
            vector = vector - (known @ vector) * known
    length = float(vector.norm())
    return (vector / length if length > 0 else vector), length


def _unit(vector: Tensor) -> Tensor:
    norm = vector.norm()
    return vector / norm if float(norm) > 0 else vector
