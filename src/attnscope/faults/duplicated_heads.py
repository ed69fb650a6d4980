"""The heads of one layer are copies of the first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._keeping import hold
from attnscope.faults._parameters import views

ROLES = ("query", "key", "value")


@dataclass(frozen=True)
class DuplicatedHeads(Fault):
    """Copies the first head's query, key and value over the others, and keeps them equal while training.

    **Injects**: the rows of head 0 in place of those of heads 1, 2, ..., after each optimiser step too.

    **Strength**: the share of the other heads that become copies (at least one).

    **Visible as**: equal patterns and equal slices; several heads do the work of one.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("duplicated_heads",)
    visibility: ClassVar[str] = "A"
    ids: ClassVar[tuple[str, ...]] = ("QTH", "V8")
    severities: ClassVar[tuple[float, ...]] = (0.3, 0.6, 1.0)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs at least two heads whose rows are known."""
        slices = attention_of(anatomy, self.layer).head_slices
        enough = [role for role in ROLES if len(slices.get(role, ())) > 1]
        return "" if "query" in enough else "the projections are not cut into two or more heads here"

    def copies(self, anatomy: Anatomy, role: str) -> range:
        """The heads that become copies."""
        n_heads = len(attention_of(anatomy, self.layer).head_slices.get(role, ()))
        return range(1, 1 + max(1, round(self.strength * (n_heads - 1)))) if n_heads > 1 else range(0)

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Copies the slices."""
        pairs = []
        for role in ROLES:
            slices = attention_of(anatomy, self.layer).head_slices.get(role, ())
            pairs += [(slices[head], slices[0]) for head in self.copies(anatomy, role)]

        def copy_over(model: nn.Module, _: int) -> None:
            for target, source in pairs:
                for part, first in zip(views(model, target), views(model, source), strict=True):
                    part.copy_(first)

        hold(case, copy_over)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """Every head that is equal to another, and the layer's heads as a whole."""
        name = attention_of(anatomy, self.layer).name
        heads = (0, *self.copies(anatomy, "query"))
        parts = [f"{name}H{head}.{letter}" for head in heads for letter in "QKV"]
        whole = [f"{name}.{letter}" for letter in "QKV"]
        return (f"{name}.heads", *(f"{name}H{head}" for head in heads), *parts, *whole)
