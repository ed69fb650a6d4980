"""The weights of one layer meet the sequence shifted by one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._projections import mixed
from attnscope.faults._values import obstacle_of_values, revalue


@dataclass(frozen=True)
class ShiftedWeights(Fault):
    """Weighs each position's neighbour: scores were made from one sequence, values from another.

    **Injects**: (1 - strength) values + strength the values of one place earlier (the first takes the last's).

    **Strength**: the share of the shifted values.

    **Visible as**: an operation on the way of the values that the keys do not go through; patterns that look
    healthy.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("values_misplaced",)
    visibility: ClassVar[str] = "A"
    ids: ClassVar[tuple[str, ...]] = ("H8",)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs the product of pattern and values."""
        attention = attention_of(anatomy, self.layer)
        if attention.n_keys == 1:
            return "this attention has one key only"
        return obstacle_of_values(case, anatomy, attention.layer)

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Shifts the values of the layer."""

        def change(value: Tensor, axis: int) -> Tensor:
            return mixed(value, value.roll(1, dims=axis), self.strength)

        revalue(case.model, anatomy, attention_of(anatomy, self.layer).layer, change)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The values; shifting the pattern the other way is the same."""
        attention = attention_of(anatomy, self.layer)
        blocks = [attention.blocks[role] for role in ("value",) if attention.blocks.get(role)]
        name = attention.name
        return (*blocks, f"{name}.V", f"{name}.softmax", f"{name}.positions")
