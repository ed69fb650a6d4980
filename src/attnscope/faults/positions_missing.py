"""The learned positions are zero, so the order of the input is invisible."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from attnscope.anatomy.blocks import Anatomy, Block, Role
from attnscope.case import Case
from attnscope.faults import Fault
from attnscope.faults._keeping import hold
from attnscope.faults._parameters import block_views


@dataclass(frozen=True)
class PositionsMissing(Fault):
    """Shrinks the table of learned positions to nothing, and keeps it so while training.

    **Injects**: table times 1 - strength; after each optimiser step its norm is cut to that again.

    **Strength**: how much of the positions is lost.

    **Visible as**: an output that does not move when tokens change places.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("positions_missing", "positions_constant", "norm_held")
    ids: ClassVar[tuple[str, ...]] = ("POE", "V6")
    severities: ClassVar[tuple[float, ...]] = (0.5, 0.9, 1.0)
    layered: ClassVar[bool] = False

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a table of positions."""
        return "" if _tables(anatomy) else "the model has no table of learned positions"

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Shrinks the tables."""
        names = [block.name for block in _tables(anatomy)]
        limits = [(1 - self.strength) * float(each.norm()) for each in _parts(case.model, anatomy, names)]

        def shrink(model: nn.Module, _: int) -> None:
            for table, limit in zip(_parts(model, anatomy, names), limits, strict=True):
                norm = float(table.norm())
                if norm > limit:
                    table.mul_(limit / norm)

        hold(case, shrink)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The tables, and the positions of every layer."""
        layers = tuple(f"{attention.name}.positions" for attention in anatomy.attentions)
        return (*(block.name for block in _tables(anatomy)), "positions", *layers)


def _tables(anatomy: Anatomy) -> list[Block]:
    return [block for block in anatomy.blocks if block.role == Role.POSITIONS]


def _parts(model: nn.Module, anatomy: Anatomy, names: list[str]) -> list[Tensor]:
    return [part for name in names for part in block_views(model, anatomy, name)]
