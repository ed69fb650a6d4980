"""The gradient of one projection has the wrong sign."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._parameters import role_block
from attnscope.faults._projections import Reweighted, obstacle_of_projection, owner_of


@dataclass(frozen=True)
class FlippedGradient(Fault):
    """Turns the sign of the gradient of the query's weight; the forward pass does not change at all.

    **Injects**: the gradient of W_Q times 1 - 2 strength. What flows on to the input is right.

    **Strength**: 1 turns the sign, 0.5 leaves nothing.

    **Visible as**: an identity between the gradients of query and key that is broken; updates that climb.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("altered_gradient",)
    visibility: ClassVar[str] = "I"
    ids: ClassVar[tuple[str, ...]] = ("D8",)
    severities: ClassVar[tuple[float, ...]] = (0.6, 0.8, 1.0)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a query projection of its own."""
        block = role_block(attention_of(anatomy, self.layer), "query")
        return obstacle_of_projection(case, anatomy, block, "query projection")

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Hooks the projection."""
        owner = owner_of(case.model, anatomy, role_block(attention_of(anatomy, self.layer), "query"))
        factor = 1 - 2 * self.strength

        def change(weight: Tensor) -> Tensor:
            return weight.detach() + factor * (weight - weight.detach())

        if owner is not None:
            owner.register_forward_hook(Reweighted(change))

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The projection with the wrong gradient, and the one whose gradient it no longer agrees with."""
        attention = attention_of(anatomy, self.layer)
        both = tuple(attention.blocks[role] for role in ("query", "key") if attention.blocks.get(role))
        return (*both, f"{attention.name}.QK")
