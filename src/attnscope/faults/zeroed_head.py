"""One head of one layer puts nothing out: its value is zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._keeping import hold
from attnscope.faults._parameters import views, zero_share


@dataclass(frozen=True)
class ZeroedHead(Fault):
    """Zeroes the value rows of one head, and keeps them zero while training.

    **Injects**: W_V of the head = 0 (for grouped heads, of the key head), after each optimiser step too.

    **Strength**: the share of the head's rows that are zeroed, from the first.

    **Visible as**: that head's context is zero and its query and key rows get exactly no gradient.

    Attributes:
        head: which (key) head.
    """

    head: int = 0
    recognised_as: ClassVar[tuple[str, ...]] = ("zeroed_projection",)
    ids: ClassVar[tuple[str, ...]] = ("V8",)
    severities: ClassVar[tuple[float, ...]] = (0.3, 0.6, 1.0)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs value rows that are told apart by head."""
        heads = attention_of(anatomy, self.layer).head_slices.get("value", ())
        return "" if 0 <= self.head < len(heads) > 1 else "the value projection is not cut into heads here"

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Zeroes the slices."""
        slices = attention_of(anatomy, self.layer).head_slices["value"][self.head]
        hold(case, lambda model, _: zero_share(views(model, slices), self.strength))

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The head's value, and the head."""
        name = attention_of(anatomy, self.layer).name
        return (f"{name}H{self.head}.V", f"{name}H{self.head}")
