"""The learned positions are off by one, as after loading a table of another convention."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from attnscope.anatomy.blocks import Anatomy, Block, Role
from attnscope.case import Case
from attnscope.faults import Fault
from attnscope.faults._parameters import block_views
from attnscope.faults._surroundings import change_input


@dataclass(frozen=True)
class PositionsShifted(Fault):
    """Moves the table of learned positions by some rows.

    **Injects**: row i holds what row i - 1 held. Where the table is an `nn.Embedding`, train mode looks the rows up
    at their new places, as the mistake is made when trained weights are stored or loaded; elsewhere training heals
    it slowly.

    **Strength**: below 1 how far each row goes towards its neighbour (training may heal it); from 1 on by how many
    rows the table moves.

    **Visible as**: moving the table back lowers the loss.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("positions_shifted",)
    visibility: ClassVar[str] = "C"
    ids: ClassVar[tuple[str, ...]] = ("PSI", "V6")
    severities: ClassVar[tuple[float, ...]] = (1.0, 2.0, 4.0)
    layered: ClassVar[bool] = False

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a table of positions with one row for each."""
        return "" if _tables(case, anatomy) else "the model has no table of learned positions"

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Moves the rows."""
        n_rows = max(1, round(self.strength))
        with torch.no_grad():
            for block in _tables(case, anatomy):
                for table in block_views(case.model, anatomy, block.name):
                    table.lerp_(table.roll(n_rows, dims=_axis(table)), min(self.strength, 1.0))
                owner = case.model.get_submodule(block.slices[0].parameter.rpartition(".")[0])
                if self.strength >= 1 and isinstance(owner, nn.Embedding):
                    change_input(owner, partial(_found_in_training, n_rows=n_rows))

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The tables."""
        names = tuple(block.name for block in anatomy.blocks if block.role == Role.POSITIONS)
        return (*names, "positions")


def _found_in_training(module: nn.Module, places: Tensor, n_rows: int) -> Tensor:
    """In train mode each position's row is where it has been moved to."""
    table = module.weight
    return (places + n_rows) % len(table) if module.training and isinstance(table, Tensor) else places


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
