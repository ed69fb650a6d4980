"""The query side of one layer is drawn anew after each step, so it never learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._keeping import hold
from attnscope.faults._parameters import block_views, role_block


@dataclass(frozen=True)
class RedrawnQuery(Fault):
    """Draws the query block anew after each step: a context vector that is made in the forward pass.

    **Injects**: (1 - strength) block + strength noise of the block's own spread, after each optimiser step too.

    **Strength**: the share of the noise; 1 leaves nothing of what was learnt.

    **Visible as**: an update that is large, has nothing of the gradient, and leads nowhere.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ()
    visibility: ClassVar[str] = "U"
    ids: ClassVar[tuple[str, ...]] = ("H3",)
    severities: ClassVar[tuple[float, ...]] = (0.1, 0.4, 1.0)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a query block."""
        has_one = role_block(attention_of(anatomy, self.layer), "query")
        return "" if has_one else "this attention has no query projection"

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Draws the block, now and after each step."""
        block = role_block(attention_of(anatomy, self.layer), "query")
        spreads = [float(part.std(correction=0)) for part in block_views(case.model, anatomy, block)]

        def draw(model: nn.Module, n_steps: int) -> None:
            random = torch.Generator().manual_seed(1_000_003 * (self.seed + 1) + n_steps)
            for part, spread in zip(block_views(model, anatomy, block), spreads, strict=True):
                noise = spread * torch.randn(part.shape, generator=random, dtype=torch.float64)
                part.lerp_(noise.to(part), self.strength)

        hold(case, draw)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The query block."""
        attention = attention_of(anatomy, self.layer)
        return (role_block(attention, "query"), f"{attention.name}.Q")
