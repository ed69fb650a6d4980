"""The directions that a block's curvature uses most, gathered from products that pass by."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class Range:
    """Normalised vectors, their leading left singular vectors, and how well these predict a new vector.

    Vectors are normalised so that every pair of blocks has the same say. They are kept in bfloat16: any
    orthonormal basis serves, and its orthonormality is restored in full precision.
    """

    def __init__(self, columns: Iterable[Tensor] = ()) -> None:
        self.columns: list[Tensor] = list(columns)

    def add(self, vector: Tensor) -> None:
        """Takes one more vector; a zero vector says nothing and is left out."""
        norm = float(vector.norm())
        if norm > 0:
            self.columns.append((vector / norm).bfloat16())

    def basis(self, k: int, like: Tensor) -> Tensor:
        """Rows: at most `k` orthonormal vectors that hold most of what was added, in the type of `like`."""
        k = min(k, len(self.columns), like.numel())
        if k < 1:
            return like.new_zeros(0, like.numel())
        values, vectors = torch.linalg.eigh(self._gram())
        leading = vectors[:, -k:].to(like.device, like.dtype)
        found = like.new_zeros(k, like.numel())
        for column, weights in zip(self.columns, leading, strict=True):
            found += weights[:, None] * column.to(like.dtype)
        keep = values[-k:] > 1e-6 * values[-1]  # what lies below is rounding
        found = found[keep.to(like.device)]
        orthonormal: Tensor = torch.linalg.qr(found.T)[0].T
        return orthonormal.contiguous()

    def predicted(self, k: int) -> float:
        """The share of a new vector (in squared length) that `k` directions will hold, by leaving one out."""
        n = len(self.columns)
        if n < 2 or k < 1:
            return 0.0
        gram = self._gram()
        shares = []
        for left_out in range(n):
            rest = [index for index in range(n) if index != left_out]
            values, vectors = torch.linalg.eigh(gram[rest][:, rest])
            use = values[-k:] > 1e-6 * values[-1]
            weights = vectors[:, -k:][:, use] / values[-k:][use].sqrt()
            held = float((weights.T @ gram[rest, left_out]).square().sum())
            shares.append(held / float(gram[left_out, left_out]))
        return min(sum(shares) / n, 1.0)

    def _gram(self) -> Tensor:
        columns = [column.float() for column in self.columns]
        return torch.tensor([[float(one @ other) for other in columns] for one in columns]).double()
