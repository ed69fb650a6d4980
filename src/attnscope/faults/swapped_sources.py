"""A cross-attention takes its queries from the stream that it should look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._projections import mixed
from attnscope.faults._sources import change_sources, obstacle_of_sources


@dataclass(frozen=True)
class SwappedSources(Fault):
    """Exchanges what queries and what keys and values are made from.

    **Injects**: each source becomes (1 - strength) itself + strength the other.

    **Strength**: 1 exchanges them.

    **Visible as**: coupling and gradients of the two streams that are exchanged.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ()
    visibility: ClassVar[str] = "C"
    ids: ClassVar[tuple[str, ...]] = ("V1",)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a module that is handed both sources."""
        return obstacle_of_sources(case, anatomy, attention_of(anatomy, self.layer))

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Hooks that module."""

        def change(asking: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
            return mixed(asking, asked, self.strength), mixed(asked, asking, self.strength)

        change_sources(case, anatomy, attention_of(anatomy, self.layer).layer, change)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """What is made from the wrong source."""
        attention = attention_of(anatomy, self.layer)
        blocks = [attention.blocks[role] for role in ("query", "key", "value") if attention.blocks.get(role)]
        return (*blocks, attention.name)
