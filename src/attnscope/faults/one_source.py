"""A cross-attention looks at its own stream: it is a self-attention by mistake."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, anatomy_of, attention_of
from attnscope.faults._projections import mixed
from attnscope.faults._sources import blocks_of_asked, change_sources, obstacle_of_sources
from attnscope.findings import Label


@dataclass(frozen=True)
class OneSource(Fault):
    """Makes keys and values from what the queries are made from.

    **Injects**: keys' source = (1 - strength) itself + strength the queries' source.

    **Strength**: 1 leaves nothing of the other stream.

    **Visible as**: an encoder on which nothing depends, without gradient and curvature.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("unused_parameter", "cut_gradient")
    visibility: ClassVar[str] = "I"
    ids: ClassVar[tuple[str, ...]] = ("V2",)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a module that is handed both sources."""
        return obstacle_of_sources(case, anatomy, attention_of(anatomy, self.layer))

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Hooks that module."""

        def change(asking: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
            return asking, mixed(asked, asking, self.strength)

        change_sources(case, anatomy, attention_of(anatomy, self.layer).layer, change)

    def label(self, case: Case) -> Label:
        """With the encoder that nothing depends on any more among the places."""
        label, anatomy = super().label(case), anatomy_of(case)
        blocks = blocks_of_asked(case, anatomy, attention_of(anatomy, self.layer).layer)
        return replace(label, places=(*label.places, *blocks))

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """What is made from the wrong source."""
        attention = attention_of(anatomy, self.layer)
        blocks = [attention.blocks[role] for role in ("key", "value") if attention.blocks.get(role)]
        return (*blocks, attention.name)
