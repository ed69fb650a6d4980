"""The normalisation beside one attention is pulled to zero by a weight decay of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._optimizer import decay_obstacle, split_off
from attnscope.faults._parameters import block_parameters


@dataclass(frozen=True)
class NormDecay(Fault):
    """Adds weight decay to gain and bias of the first normalisation beside one attention.

    **Injects**: their own parameter group, with strength added to the weight decay.

    **Strength**: what is added; a usual decay is 0.01.

    **Visible as**: a gain that falls while the others stay near one.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("weight_decay_out_of_line",)
    visibility: ClassVar[str] = "U"
    ids: ClassVar[tuple[str, ...]] = ("NWD",)
    severities: ClassVar[tuple[float, ...]] = (0.01, 0.1, 1.0)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a normalisation with parameters and an optimiser with weight decay."""
        names = self.places(anatomy)
        if not names:
            return "no normalisation stands beside this attention"
        return decay_obstacle(case.optimizer, self._parameters(case, anatomy))

    def _parameters(self, case: Case, anatomy: Anatomy) -> list[nn.Parameter]:
        return [each for name in self.places(anatomy) for each in block_parameters(case.model, anatomy, name)]

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Splits the group."""
        if case.optimizer is not None:
            split_off(case.optimizer, self._parameters(case, anatomy), decay=self.strength)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The normalisation."""
        return attention_of(anatomy, self.layer).norms[:1]
