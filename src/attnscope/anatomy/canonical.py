"""The layout [batch, head, query, key] of a score matrix, as a rule: nothing of its size is ever written down."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from attnscope.anatomy.indexing import coordinates_of


@dataclass(frozen=True, eq=False)
class CanonicalLayout:
    """How the axes of raw scores become batch, head, query and key.

    Attributes:
        raw: shape of the raw scores.
        batch_axes, query_axes, key_axes: a partition of its axes.
        matrices: [batch, head] -> number of the score matrix along the batch axes.
        rows: [head, query] -> row of that matrix along the query axes (heads may lie in the rows).
    """

    raw: tuple[int, ...]
    batch_axes: tuple[int, ...]
    query_axes: tuple[int, ...]
    key_axes: tuple[int, ...]
    matrices: Tensor
    rows: Tensor

    @property
    def n_keys(self) -> int:
        """How many keys."""
        return math.prod(self.raw[axis] for axis in self.key_axes)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Batch, heads, queries, keys."""
        return (*self.matrices.shape, self.rows.shape[1], self.n_keys)

    @cached_property
    def plain(self) -> bool:
        """Whether the axes only need to be permuted and folded."""
        natural = torch.arange(self.matrices.numel()).reshape(self.matrices.shape)
        each = torch.arange(self.rows.shape[1]).expand(self.rows.shape)
        return torch.equal(self.matrices, natural) and torch.equal(self.rows, each)

    @cached_property
    def _row_places(self) -> Tensor:
        """[matrix, row] -> (batch * heads + head) * queries + query."""
        batch, heads, queries, _ = self.shape
        numbers = torch.arange(batch * heads * queries).reshape(batch, heads, queries)
        places = torch.full((math.prod(self.raw[axis] for axis in self.batch_axes), self.n_rows), -1)
        places[self.matrices.unsqueeze(-1), self.rows.unsqueeze(0)] = numbers
        return places

    @property
    def n_rows(self) -> int:
        """How many rows a score matrix has."""
        return math.prod(self.raw[axis] for axis in self.query_axes)

    def places(self, flat: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Batch, head, query and key of flat indices in the raw scores."""
        coordinates = coordinates_of(flat, self.raw)
        matrix, row, key = (
            _folded([coordinates[axis] for axis in axes], [self.raw[axis] for axis in axes], flat)
            for axes in (self.batch_axes, self.query_axes, self.key_axes)
        )
        batch, head, query = coordinates_of(self._row_places[matrix, row], self.shape[:3])
        return batch, head, query, key

    def read(self, tensor: Tensor) -> Tensor:
        """A tensor laid out like the raw scores, in canonical layout."""
        if tuple(tensor.shape) != self.raw:
            tensor = tensor.expand(self.raw)
        tensor = tensor.permute(*self.batch_axes, *self.query_axes, *self.key_axes)
        if self.plain:
            if tuple(tensor.shape) == self.shape:
                return tensor
            return tensor.reshape(self.shape)
        folded = tensor.reshape(-1, self.n_rows, self.n_keys)
        return folded[self.matrices.unsqueeze(-1), self.rows.unsqueeze(0)]

    def elements(self) -> Tensor:
        """[batch, head, query, key] -> flat index in the raw scores, written down in full."""
        return self.read(torch.arange(math.prod(self.raw)).reshape(self.raw))


def _folded(coordinates: Sequence[Tensor], sizes: Sequence[int], like: Tensor) -> Tensor:
    """Several coordinates as one."""
    total = torch.zeros_like(like)
    for coordinate, size in zip(coordinates, sizes, strict=True):
        total = total * size + coordinate
    return total
