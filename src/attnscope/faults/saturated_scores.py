"""The query projection of one layer is far too large, so each query looks at one key only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._parameters import block_views, role_block

GROWTH = 100.0


@dataclass(frozen=True)
class SaturatedScores(Fault):
    """Multiplies W_Q (and its bias) of one layer, once; the softmax is then flat and training cannot undo it.

    **Injects**: W_Q times 1 + 99 strength.

    **Strength**: 1 multiplies by 100.

    **Visible as**: entropy near zero, and gradients of query and key that vanish (curvature falls, too).
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("saturated_scores",)
    visibility: ClassVar[str] = "A"
    ids: ClassVar[tuple[str, ...]] = ("H6",)
    severities: ClassVar[tuple[float, ...]] = (0.1, 0.3, 1.0)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a query or key projection."""
        attention = attention_of(anatomy, self.layer)
        return "" if role_block(attention, "query") else "this attention has no query projection"

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Multiplies the block."""
        factor = 1 + (GROWTH - 1) * self.strength
        block = role_block(attention_of(anatomy, self.layer), "query")
        with torch.no_grad():
            for part in block_views(case.model, anatomy, block):
                part.mul_(factor)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The query projection and what it saturates."""
        attention = attention_of(anatomy, self.layer)
        name = attention.name
        key = role_block(attention, "key")
        return (role_block(attention, "query"), key, f"{name}.scores", f"{name}.softmax", f"{name}.scale")
