"""The optimiser holds a parameter twice and so makes its step twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._optimizer import repeat
from attnscope.faults._parameters import block_parameters, blocks_of_parameters, role_block


@dataclass(frozen=True)
class UpdatedTwice(Fault):
    """Lists the query projection in a second group of the optimiser, as a tied parameter that is counted twice.

    **Injects**: a further group with the same parameters, at strength times their learning rate. Where the query
    is a slice of a fused projection, the whole projection is meant.

    **Strength**: 1 makes the same step again; moments and the count of steps move twice at any strength.

    **Visible as**: one parameter in two groups; updates and a count of steps twice those of the neighbours.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("updated_twice", "learning_rate_out_of_line")
    visibility: ClassVar[str] = "U"
    ids: ClassVar[tuple[str, ...]] = ("D6",)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs an optimiser and a query projection."""
        if case.optimizer is None:
            return "the case has no optimiser"
        has_one = role_block(attention_of(anatomy, self.layer), "query")
        return "" if has_one else "this attention has no query projection"

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Adds the group."""
        block = role_block(attention_of(anatomy, self.layer), "query")
        if case.optimizer is not None:
            repeat(case.optimizer, block_parameters(case.model, anatomy, block), factor=self.strength)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The query projection, and what shares a parameter with it."""
        return blocks_of_parameters(anatomy, role_block(attention_of(anatomy, self.layer), "query"))
