"""The output projection of one layer is applied with its matrix transposed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._parameters import role_block
from attnscope.faults._projections import Reweighted, mixed, obstacle_of_projection, owner_of


@dataclass(frozen=True)
class TransposedOutput(Fault):
    """Applies W_O transposed, as a loader does that takes a convolution's layout for a linear layer's.

    **Injects**: (1 - strength) W + strength W^T in every forward pass. A model that is trained from the start
    learns the transposed matrix as well as the other; a pretrained one is broken by it.

    **Strength**: the share of the transposed matrix.

    **Visible as**: a block that fits the rest only when it is transposed.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("transposed_projection",)
    visibility: ClassVar[str] = "C"
    ids: ClassVar[tuple[str, ...]] = ("D2",)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a square output projection of its own."""
        block = role_block(attention_of(anatomy, self.layer), "output")
        reason = obstacle_of_projection(case, anatomy, block, "output projection")
        if reason:
            return reason
        rows, columns, *rest = anatomy.block(block).slices[0].shape
        return "" if rows == columns and set(rest) <= {1} else "the output projection is not square"

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Hooks the projection."""
        owner = owner_of(case.model, anatomy, role_block(attention_of(anatomy, self.layer), "output"))

        def change(weight: Tensor) -> Tensor:
            return mixed(weight, weight.transpose(0, 1), self.strength)

        if owner is not None:
            owner.register_forward_hook(Reweighted(change))

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The output projection."""
        return (role_block(attention_of(anatomy, self.layer), "output"),)
