"""Late tokens have no positions of their own: they all share the last one that is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from attnscope.anatomy.blocks import Anatomy, Block, Role
from attnscope.case import Case
from attnscope.faults import Fault
from attnscope.faults._keeping import hold
from attnscope.faults._parameters import views


@dataclass(frozen=True)
class PositionsTruncated(Fault):
    """Ends the table of learned positions early: the rows behind the end equal the last one before it.

    **Injects**: those rows written over, after each optimiser step too.

    **Strength**: the share of the first batch's positions that have none of their own (one is kept).

    **Visible as**: late tokens that can be exchanged without effect.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("positions_truncated",)
    visibility: ClassVar[str] = "I"
    ids: ClassVar[tuple[str, ...]] = ("PTL",)
    severities: ClassVar[tuple[float, ...]] = (0.25, 0.5, 0.75)
    layered: ClassVar[bool] = False

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a table of positions with one row for each."""
        return "" if _tables(anatomy) else "the model has no table of learned positions"

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Writes the rows over."""
        length = max(attention.n_keys for attention in anatomy.attentions)
        n_lost = max(1, round(self.strength * length))
        pieces = [block.slices[0] for block in _tables(anatomy)]

        def overwrite(model: nn.Module, n_steps: int) -> None:
            for table in views(model, pieces):
                # with an offset or a row for a class token the table is longer than the text: its end is what counts
                rows = table.transpose(0, -2)
                last = max(0, min(length, len(rows)) - n_lost - 1)
                rows[last:] = rows[last].clone()

        hold(case, overwrite)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The tables, and the positions."""
        return tuple(dict.fromkeys((*(block.name for block in _tables(anatomy)), "positions")))


def _tables(anatomy: Anatomy) -> list[Block]:
    return [
        block for block in anatomy.blocks if block.role is Role.POSITIONS and len(block.slices[0].shape) >= 2
    ]
