"""The stream that a cross-attention looks at is cut off from the gradient."""

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
class DetachedSource(Fault):
    """Detaches what keys and values are made from; the forward pass does not change at all.

    **Injects**: strength source.detach() + (1 - strength) source.

    **Strength**: the share of the gradient that is lost.

    **Visible as**: an encoder on which the loss depends, with exactly no gradient.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("cut_gradient",)
    visibility: ClassVar[str] = "I"
    ids: ClassVar[tuple[str, ...]] = ("V3",)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a module that is handed both sources, and an encoder that only this attention uses."""
        attention = attention_of(anatomy, self.layer)
        return obstacle_of_sources(case, anatomy, attention, same_shape=False)

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Hooks that module."""

        def change(asking: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
            return asking, mixed(asked, asked.detach(), self.strength)

        change_sources(case, anatomy, attention_of(anatomy, self.layer).layer, change)

    def label(self, case: Case) -> Label:
        """The encoder that gets no gradient, then the place of the cut."""
        label, anatomy = super().label(case), anatomy_of(case)
        blocks = blocks_of_asked(case, anatomy, attention_of(anatomy, self.layer).layer)
        return replace(label, places=(*blocks, *label.places))

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The attention that the stream is cut off from; `label` names the encoder before it."""
        attention = attention_of(anatomy, self.layer)
        return (f"{attention.name}.KV", attention.name)
