"""The query projection of one layer is zero, so every pattern of it is uniform."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._keeping import hold
from attnscope.faults._parameters import block_views, role_block, zero_share


@dataclass(frozen=True)
class ZeroedQuery(Fault):
    """Zeroes W_Q (and its bias) of one layer, and keeps it zero while training.

    **Injects**: W_Q = 0, after each optimiser step too.

    **Strength**: the share of its rows that are zeroed, from the first.

    **Visible as**: all scores are equal; the key projection gets exactly no gradient, the query itself does.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("zeroed_projection",)
    ids: ClassVar[tuple[str, ...]] = ("QZQ",)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """An attention with learned queries has no query projection."""
        has_one = role_block(attention_of(anatomy, self.layer), "query")
        return "" if has_one else "this attention has no query projection"

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Zeroes the block."""
        block = role_block(attention_of(anatomy, self.layer), "query")
        hold(case, lambda model, _: zero_share(block_views(model, anatomy, block), self.strength))

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The query projection."""
        return (role_block(attention_of(anatomy, self.layer), "query"),)
