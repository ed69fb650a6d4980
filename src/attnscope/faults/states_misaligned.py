"""The backward states of a recurrent encoder stand at the wrong positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault
from attnscope.faults._projections import OutputChanged, mixed
from attnscope.faults._recurrent import obstacle_of_direction, recurrent_blocks, recurrent_modules


@dataclass(frozen=True)
class StatesMisaligned(Fault):
    """Leaves the backward states of one recurrent module in the order in which they were made.

    **Injects**: (1 - strength) backward + strength backward read from the other end, as when two one-way
    modules are joined and the second's output is not turned back. `layer` counts the recurrent modules.

    **Strength**: the share of the states at the wrong place.

    **Visible as**: a position whose two halves know different words.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ()
    visibility: ClassVar[str] = "C"
    ids: ClassVar[tuple[str, ...]] = ("H9",)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a recurrent module that reads both ways."""
        return obstacle_of_direction(case.model, self.layer)

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Hooks the module."""
        module = recurrent_modules(case.model)[self.layer][1]
        first_axis = module.batch_first

        def change(states: Tensor) -> Tensor:
            forward, backward = states.chunk(2, dim=-1)
            time = 1 if first_axis and states.ndim == 3 else 0
            return torch.cat((forward, mixed(backward, backward.flip(time), self.strength)), dim=-1)

        module.register_forward_hook(OutputChanged(change))

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The recurrent module."""
        return (recurrent_blocks(anatomy)[self.layer],)
