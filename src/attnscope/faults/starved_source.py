"""The stream that a cross-attention looks at is a hundred times too weak."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, anatomy_of, attention_of
from attnscope.faults._sources import blocks_of_asked, change_sources, obstacle_of_sources
from attnscope.findings import Label

SHARE = 0.01


@dataclass(frozen=True)
class StarvedSource(Fault):
    """Multiplies what keys and values are made from by a small gain.

    **Injects**: source times 0.01 to the power of strength.

    **Strength**: 1 leaves a hundredth, 0.5 a tenth.

    **Visible as**: small gradients and small curvature in that encoder, neither of them zero.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ()
    visibility: ClassVar[str] = "C"
    ids: ClassVar[tuple[str, ...]] = ("V13",)
    severities: ClassVar[tuple[float, ...]] = (0.5, 1.0, 1.5)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a module that is handed both sources."""
        return obstacle_of_sources(case, anatomy, attention_of(anatomy, self.layer))

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Hooks that module."""
        gain = SHARE**self.strength

        def change(asking: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
            return asking, gain * asked

        change_sources(case, anatomy, attention_of(anatomy, self.layer).layer, change)

    def label(self, case: Case) -> Label:
        """The encoder of the weak stream, then what it feeds."""
        label, anatomy = super().label(case), anatomy_of(case)
        blocks = blocks_of_asked(case, anatomy, attention_of(anatomy, self.layer).layer)
        return replace(label, places=(*blocks, *label.places))

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """What is made from the weak stream; `label` names its encoder."""
        attention = attention_of(anatomy, self.layer)
        return tuple(attention.blocks[role] for role in ("key", "value") if attention.blocks.get(role))
