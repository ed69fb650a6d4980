"""Queries, keys and values of one layer are made by a frozen copy while the optimiser trains another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._keeping import hold
from attnscope.faults._parameters import block_views, role_block

ROLES = ("query", "key", "value")


@dataclass(frozen=True)
class StaleProjections(Fault):
    """Takes every step of query, key and value back: a fused copy that was made before training is used on.

    **Injects**: after each optimiser step weights = (1 - strength) weights + strength what they were at first.
    The optimiser's moments go on.

    **Strength**: how much of each step is taken back.

    **Visible as**: gradients and moments without an update.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("updates_undone", "left_out_of_optimizer")
    visibility: ClassVar[str] = "U"
    ids: ClassVar[tuple[str, ...]] = ("D1",)
    severities: ClassVar[tuple[float, ...]] = (0.5, 0.9, 1.0)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs an optimiser and at least one of these projections."""
        if case.optimizer is None:
            return "the case has no optimiser"
        return "" if self._blocks(anatomy) else "this attention has no projection of query, key or value"

    def _blocks(self, anatomy: Anatomy) -> tuple[str, ...]:
        found = [role_block(attention_of(anatomy, self.layer), role) for role in ROLES]
        return tuple(dict.fromkeys(name for name in found if name))

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Remembers the weights and puts them back after each step."""
        blocks = self._blocks(anatomy)
        first = [[part.clone() for part in block_views(case.model, anatomy, name)] for name in blocks]

        def put_back(model: nn.Module, _: int) -> None:
            for name, before in zip(blocks, first, strict=True):
                for part, old in zip(block_views(model, anatomy, name), before, strict=True):
                    part.lerp_(old, self.strength)

        hold(case, put_back)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The projections."""
        return (*self._blocks(anatomy), attention_of(anatomy, self.layer).name)
