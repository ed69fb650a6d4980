"""Query, key and value of one layer were left out of the optimiser, so they never move."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._optimizer import split_off
from attnscope.faults._parameters import block_parameters, role_block


@dataclass(frozen=True)
class FrozenProjections(Fault):
    """Takes the three projections of one layer out of the optimiser; they still ask for a gradient.

    **Injects**: parameter groups that lack them.

    **Strength**: 1 leaves them out; below 1 their learning rate is multiplied by 1 - strength.

    **Visible as**: gradients without an update.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("left_out_of_optimizer",)
    visibility: ClassVar[str] = "U"
    ids: ClassVar[tuple[str, ...]] = ("QFG",)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs an optimiser and a projection."""
        if case.optimizer is None:
            return "the case has no optimiser"
        return "" if self.places(anatomy) else "this attention has no projections"

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Leaves the parameters out."""
        if case.optimizer is not None:
            names = self.places(anatomy)
            parameters = [each for name in names for each in block_parameters(case.model, anatomy, name)]
            split_off(case.optimizer, parameters, factor=1 - self.strength)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The projections."""
        attention = attention_of(anatomy, self.layer)
        named = (role_block(attention, role) for role in ("query", "key", "query_key", "value"))
        return tuple(dict.fromkeys(name for name in named if name))
