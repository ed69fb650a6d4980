"""The value projection of one layer is zero, so its attention adds nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._keeping import hold
from attnscope.faults._parameters import block_views, role_block, zero_share


@dataclass(frozen=True)
class ZeroedValue(Fault):
    """Zeroes W_V (and its bias) of one layer, and keeps it zero while training.

    **Injects**: W_V = 0, after each optimiser step too.

    **Strength**: the share of its rows that are zeroed, from the first.

    **Visible as**: query, key and output projection get exactly no gradient; the value itself does.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("zeroed_projection",)
    ids: ClassVar[tuple[str, ...]] = ("QZV",)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """A HAN has no value projection."""
        has_one = role_block(attention_of(anatomy, self.layer), "value")
        return "" if has_one else "this attention has no value projection"

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Zeroes the block."""
        block = role_block(attention_of(anatomy, self.layer), "value")
        hold(case, lambda model, _: zero_share(block_views(model, anatomy, block), self.strength))

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The value projection."""
        return (role_block(attention_of(anatomy, self.layer), "value"),)
