"""The learned positions are off by one, as after loading a table of another convention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attnscope.anatomy.blocks import Anatomy, Block, Role
from attnscope.case import Case
from attnscope.faults import Fault
from attnscope.faults._parameters import block_views


@dataclass(frozen=True)
class PositionsShifted(Fault):
    """Moves the table of learned positions by one row, once.

    **Injects**: row i holds what row i - 1 held. Training heals it slowly, so it is not written again.

    **Strength**: how far each row goes towards its neighbour; 1 moves it whole.

    **Visible as**: moving the table back lowers the loss.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("positions_shifted",)
    visibility: ClassVar[str] = "C"
    ids: ClassVar[tuple[str, ...]] = ("PSI", "V6")
    layered: ClassVar[bool] = False

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a table of positions with one row for each."""
        return "" if _tables(case, anatomy) else "the model has no table of learned positions"

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Moves the rows."""
        with torch.no_grad():
            for block in _tables(case, anatomy):
                for table in block_views(case.model, anatomy, block.name):
                    table.lerp_(table.roll(1, dims=_axis(table)), self.strength)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The tables."""
        names = tuple(block.name for block in anatomy.blocks if block.role == Role.POSITIONS)
        return (*names, "positions")


def _tables(case: Case, anatomy: Anatomy) -> list[Block]:
    return [
        block
        for block in anatomy.blocks
        if block.role == Role.POSITIONS and block_views(case.model, anatomy, block.name)[0].ndim >= 2
    ]


def _axis(table: Tensor) -> int:
    """The axis of positions: the last but one; where channels come first (`[width, frame, 1, 1]`) the last long one."""
    if table.shape[-1] > 1:
        return table.ndim - 2
    return max((axis for axis in range(table.ndim) if table.shape[axis] > 1), default=table.ndim - 2)
