"""The parameters of one block, or of one whole layer, are not in the optimiser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._optimizer import split_off
from attnscope.faults._parameters import block_parameters, blocks_of_parameters, role_block

WHOLE_LAYER = "layer"


@dataclass(frozen=True)
class FrozenBlock(Fault):
    """Takes a block's parameters out of the optimiser; they still ask for a gradient.

    **Injects**: a parameter group that lacks them. Where a block is a slice of a parameter, the whole parameter
    is left out.

    **Strength**: 1 leaves them out; below 1 their learning rate is multiplied by 1 - strength.

    **Visible as**: a gradient without an update.

    Attributes:
        role: `layer` for every block of the layer; `query`, `key`, `value` or `output` for that projection; any
            other role, such as `encoder` or `classifier`, for the block of that role with the number `layer`.
    """

    role: str = WHOLE_LAYER
    recognised_as: ClassVar[tuple[str, ...]] = ("left_out_of_optimizer",)
    visibility: ClassVar[str] = "U"
    ids: ClassVar[tuple[str, ...]] = ("H12", "D5")

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs an optimiser and such a block."""
        if case.optimizer is None:
            return "the case has no optimiser"
        return "" if self._blocks(anatomy) else f"the model has no block of role {self.role!r} there"

    def _blocks(self, anatomy: Anatomy) -> tuple[str, ...]:
        attention = attention_of(anatomy, self.layer)
        if self.role == WHOLE_LAYER:
            return tuple(block.name for block in anatomy.blocks if block.layer == attention.layer)
        if role_block(attention, self.role):
            return (role_block(attention, self.role),)
        names = [block.name for block in anatomy.blocks if block.role == self.role]
        return (names[self.layer],) if -len(names) <= self.layer < len(names) else ()

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Leaves the parameters out."""
        parameters = [
            each for name in self._blocks(anatomy) for each in block_parameters(case.model, anatomy, name)
        ]
        if case.optimizer is not None:
            split_off(case.optimizer, parameters, factor=1 - self.strength)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The blocks, and what shares a parameter with them."""
        chosen = self._blocks(anatomy)
        names = dict.fromkeys(each for name in chosen for each in blocks_of_parameters(anatomy, name))
        whole = (attention_of(anatomy, self.layer).name,) if self.role == WHOLE_LAYER else ()
        return (*names, *whole)
