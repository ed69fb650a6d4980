"""Examples in tensors, split once and for all into training and testing, and drawn by number."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from attnscope.tasks import generator

N_PROBES = 4


@dataclass(frozen=True, eq=False)
class Table:
    """Examples: row i of `inputs` has label i."""

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def drawn(self, seed: int, number: int, size: int) -> tuple[Tensor, Tensor]:
        """The `number`-th batch of training: every example once, in the seed's order, then all in another order."""
        epoch, place = divmod(number, len(self) // size)
        rows = _order(len(self), seed, epoch)[place * size : (place + 1) * size]
        return self.inputs[rows], self.labels[rows]

    def part(self, number: int, size: int) -> tuple[Tensor, Tensor]:
        """Rows `number * size` and after, as they lie."""
        rows = slice(number * size, (number + 1) * size)
        return self.inputs[rows], self.labels[rows]

    def probes(self, size: int) -> list[tuple[Tensor, Tensor]]:
        """The last rows, as batches to look at a model with."""
        first = len(self) - N_PROBES * size
        return [
            (self.inputs[start : start + size], self.labels[start : start + size])
            for start in range(first, len(self), size)
        ]


@lru_cache(maxsize=16)
def _order(n_rows: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(n_rows, generator=generator(seed, epoch))


def split(inputs: Tensor, labels: Tensor, n_held_out: int) -> tuple[Table, Table]:
    """Training and testing: the first rows are held out, and no training row has the inputs of one of them."""
    seen = {row.numpy().tobytes() for row in inputs[:n_held_out]}
    kept = [row for row in range(n_held_out, len(inputs)) if inputs[row].numpy().tobytes() not in seen]
    return Table(inputs[kept], labels[kept]), Table(inputs[:n_held_out], labels[:n_held_out])
