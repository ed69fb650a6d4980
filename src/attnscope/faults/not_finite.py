"""One number of one projection is NaN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._keeping import hold
from attnscope.faults._parameters import block_views


@dataclass(frozen=True)
class NotFinite(Fault):
    """Writes NaN into the first projection of one layer, and keeps it there while training.

    **Injects**: one NaN.

    **Strength**: anything above 0 writes it.

    **Visible as**: NaN from that operation on.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("not_finite",)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a projection."""
        return "" if attention_of(anatomy, self.layer).blocks else "no projection of this attention is known"

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Writes the NaN."""
        block = next(iter(attention_of(anatomy, self.layer).blocks.values()))

        def write(model: nn.Module, _: int) -> None:
            weight = block_views(model, anatomy, block)[0]
            weight[(0,) * weight.ndim] = float("nan")

        hold(case, write)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The projection."""
        return (next(iter(attention_of(anatomy, self.layer).blocks.values())),)
