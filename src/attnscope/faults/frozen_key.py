"""The key projection of one layer was left out of the optimiser, so it never moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._optimizer import split_off
from attnscope.faults._parameters import block_parameters, blocks_of_parameters, role_block


@dataclass(frozen=True)
class FrozenKey(Fault):
    """Takes the key projection's parameters out of the optimiser; they still ask for a gradient.

    **Injects**: a parameter group that lacks them. Where the key is a slice of a fused projection, the whole
    projection is left out.

    **Strength**: 1 leaves them out; below 1 their learning rate is multiplied by 1 - strength.

    **Visible as**: a gradient without an update.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("left_out_of_optimizer",)
    visibility: ClassVar[str] = "U"
    ids: ClassVar[tuple[str, ...]] = ("H12",)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs an optimiser and a key projection."""
        if case.optimizer is None:
            return "the case has no optimiser"
        has_one = role_block(attention_of(anatomy, self.layer), "key")
        return "" if has_one else "this attention has no key projection"

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Leaves the parameters out."""
        block = role_block(attention_of(anatomy, self.layer), "key")
        parameters = block_parameters(case.model, anatomy, block)
        if case.optimizer is not None:
            split_off(case.optimizer, parameters, factor=1 - self.strength)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The key projection, and what shares a parameter with it."""
        return blocks_of_parameters(anatomy, role_block(attention_of(anatomy, self.layer), "key"))
