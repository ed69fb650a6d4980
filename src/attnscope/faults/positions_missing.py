"""The learned positions are zero, so the order of the input is invisible."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from attnscope.anatomy.blocks import Anatomy, Block, Role
from attnscope.case import Case
from attnscope.faults import Fault
from attnscope.faults._parameters import block_views, keep, zero_share


@dataclass(frozen=True)
class PositionsMissing(Fault):
    """Shrinks the table of learned positions to nothing, and keeps it so while training.

    **Injects**: table times 1 - strength; at strength 1 after each optimiser step, too.

    **Strength**: how much of the positions is lost.

    **Visible as**: an output that does not move when tokens change places.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("positions_missing", "positions_constant")

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a table of positions."""
        return "" if _tables(anatomy) else "the model has no table of learned positions"

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Shrinks the tables."""
        tables = [part for block in _tables(anatomy) for part in block_views(case.model, anatomy, block.name)]
        with torch.no_grad():
            for table in tables:
                table.mul_(1 - self.strength)
        if self.strength >= 1:
            keep(case, lambda: zero_share(tables, 1.0))

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The tables, and the positions of every layer."""
        layers = tuple(f"{attention.name}.positions" for attention in anatomy.attentions)
        return (*(block.name for block in _tables(anatomy)), "positions", *layers)


def _tables(anatomy: Anatomy) -> list[Block]:
    return [block for block in anatomy.blocks if block.role == Role.POSITIONS]
