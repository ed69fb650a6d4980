"""The values of one layer are flattened in another order than the keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._projections import mixed
from attnscope.faults._values import obstacle_of_values, revalue


@dataclass(frozen=True)
class PermutedValues(Fault):
    """Reads the positions of the values by columns where keys are read by rows, as (T, H, W) against (H, W, T).

    **Injects**: (1 - strength) values + strength the values in the other order. The positions are taken for a
    grid as near to a square as their number allows; one that is prime is read backwards.

    **Strength**: the share of the permuted values.

    **Visible as**: an operation on the way of the values that the keys do not go through; patterns that look
    healthy.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("values_misplaced",)
    visibility: ClassVar[str] = "A"
    ids: ClassVar[tuple[str, ...]] = ("V5",)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs the product of pattern and values."""
        attention = attention_of(anatomy, self.layer)
        if attention.n_keys == 1:
            return "this attention has one key only"
        return obstacle_of_values(case, anatomy, attention.layer)

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Permutes the values of the layer."""

        def change(value: Tensor, axis: int) -> Tensor:
            order = by_columns(value.shape[axis]).to(value.device)
            return mixed(value, value.index_select(axis, order), self.strength)

        revalue(case.model, anatomy, attention_of(anatomy, self.layer).layer, change)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The values; permuting the pattern the other way is the same."""
        attention = attention_of(anatomy, self.layer)
        blocks = [attention.blocks[role] for role in ("value",) if attention.blocks.get(role)]
        name = attention.name
        return (*blocks, f"{name}.V", f"{name}.softmax", f"{name}.positions")


def by_columns(n_places: int) -> Tensor:
    """The order of places in which a grid is read by columns; backwards when there is no grid."""
    rows = max(each for each in range(1, int(n_places**0.5) + 1) if n_places % each == 0)
    if rows == 1:
        return torch.arange(n_places).flip(0)
    return torch.arange(n_places).view(rows, -1).T.flatten()
