"""The feed-forward network of one layer is pulled to zero by a weight decay of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._optimizer import decay_obstacle, split_off
from attnscope.faults._parameters import block_parameters
from attnscope.faults._surroundings import mlp_blocks


@dataclass(frozen=True)
class MlpDecay(Fault):
    """Adds weight decay to the parameters of one feed-forward network.

    **Injects**: their own parameter group, with strength added to the weight decay.

    **Strength**: what is added; a usual decay is 0.01.

    **Visible as**: weights of that network that shrink while the others grow.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("weight_decay_out_of_line",)
    visibility: ClassVar[str] = "U"
    ids: ClassVar[tuple[str, ...]] = ("FRG",)
    severities: ClassVar[tuple[float, ...]] = (0.01, 0.1, 1.0)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs such a network and an optimiser with weight decay."""
        names = self.places(anatomy)
        if not names:
            return "no feed-forward network stands beside this attention"
        return decay_obstacle(case.optimizer, self._parameters(case, anatomy))

    def _parameters(self, case: Case, anatomy: Anatomy) -> list[nn.Parameter]:
        return [each for name in self.places(anatomy) for each in block_parameters(case.model, anatomy, name)]

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Splits the group."""
        if case.optimizer is not None:
            split_off(case.optimizer, self._parameters(case, anatomy), decay=self.strength)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """Its linear maps."""
        return tuple(block.name for block in mlp_blocks(anatomy, attention_of(anatomy, self.layer)))
