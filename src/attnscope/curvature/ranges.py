"""The directions that a block's curvature uses most, gathered from products that pass by."""

from __future__ import annotations

import torch
from torch import Tensor


class Range:
    """A short orthogonal summary of many vectors: the leading left singular vectors of their matrix.

    Vectors are normalised when they are added, so that every pair of blocks has the same say. The summary
    is exact until `capacity` vectors have been added; then the weakest half is dropped (the frequent
    directions of Ghashami, Liberty, Phillips and Woodruff, 2016, without their shrinking).
    """

    def __init__(self, capacity: int = 16) -> None:
        self.capacity = capacity
        self.n = 0
        self._columns: list[Tensor] = []

    def add(self, vector: Tensor) -> None:
        """Takes one more vector; a zero vector says nothing and is left out."""
        norm = float(vector.norm())
        if not norm > 0:
            return
        self.n += 1
        self._columns.append(vector / norm)
        if len(self._columns) > self.capacity:
            self._columns = list(self._leading(self.capacity // 2)[0].T)

    def basis(self, k: int) -> Tensor:
        """At most `k` orthonormal columns that capture most of what was added."""
        if not self._columns or k < 1:
            return torch.zeros(self._columns[0].numel() if self._columns else 0, 0)
        scaled, values = self._leading(k)
        basis: Tensor = torch.linalg.qr(scaled / values)[0]
        return basis

    def captured(self, k: int) -> float:
        """The share of what was added (in squared length) that the leading `k` directions hold."""
        if not self._columns:
            return 0.0
        values = self._leading(len(self._columns))[1].double().square()
        return float(values[:k].sum() / values.sum())

    def _leading(self, k: int) -> tuple[Tensor, Tensor]:
        """Left singular vectors times singular values, and the values, by the small Gram matrix."""
        columns = torch.stack(self._columns, 1)
        gram = (columns.T @ columns).double()
        values, vectors = torch.linalg.eigh(gram)
        sizes = values.clamp(min=0).sqrt()
        keep = sizes > 1e-3 * sizes[-1]  # directions below are rounding noise of the Gram matrix
        order = [index for index in range(len(sizes) - 1, -1, -1) if bool(keep[index])][:k]
        return columns @ vectors[:, order].to(columns.dtype), sizes[order].to(columns.dtype)
