"""The backward direction of a recurrent encoder is lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault
from attnscope.faults._projections import OutputChanged
from attnscope.faults._recurrent import obstacle_of_direction, recurrent_blocks, recurrent_modules


@dataclass(frozen=True)
class DirectionDropped(Fault):
    """Shrinks the backward half of the states of one recurrent module.

    **Injects**: backward states times 1 - strength. `layer` counts the recurrent modules.

    **Strength**: 1 leaves nothing of them.

    **Visible as**: exactly no gradient for the backward weights at strength 1, and half of the columns behind them.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("direction_dropped",)
    visibility: ClassVar[str] = "C"
    ids: ClassVar[tuple[str, ...]] = ("H9",)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a recurrent module that reads both ways."""
        return obstacle_of_direction(case.model, self.layer)

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Hooks the module."""
        kept = 1 - self.strength

        def change(states: Tensor) -> Tensor:
            forward, backward = states.chunk(2, dim=-1)
            return torch.cat((forward, kept * backward), dim=-1)

        recurrent_modules(case.model)[self.layer][1].register_forward_hook(OutputChanged(change))

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The recurrent module."""
        return (recurrent_blocks(anatomy)[self.layer],)
