"""The key projection of one layer is zero, so every pattern of it is uniform."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._keeping import hold
from attnscope.faults._parameters import role_block, views, zero_share


@dataclass(frozen=True)
class ZeroedKey(Fault):
    """Zeroes W_K (and its bias) of one layer, and keeps it zero while training.

    **Injects**: W_K = 0, after each optimiser step too.

    **Strength**: the share of its rows that are zeroed, from the first.

    **Visible as**: all scores are equal; the query projection gets exactly no gradient, the key itself does.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("zeroed_projection",)
    visibility: ClassVar[str] = "I"
    ids: ClassVar[tuple[str, ...]] = ("QZK",)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a key projection."""
        has_one = role_block(attention_of(anatomy, self.layer), "key")
        return "" if has_one else "this attention has no key projection"

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Zeroes the block."""
        pieces = anatomy.block(role_block(attention_of(anatomy, self.layer), "key")).slices
        share = self.strength
        hold(case, lambda model, n_steps: zero_share(views(model, pieces), share))

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The key projection."""
        return (role_block(attention_of(anatomy, self.layer), "key"),)
