"""One projection learns a hundred times faster than the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._optimizer import split_off
from attnscope.faults._parameters import block_parameters, blocks_of_parameters, role_block

GROWTH = 100.0


@dataclass(frozen=True)
class LearningRateOutOfLine(Fault):
    """Gives the query projection of one layer a parameter group of its own, with a larger learning rate.

    **Injects**: learning rate times 100 to the power of strength. Where the query is a slice of a fused
    projection, the whole projection is meant.

    **Strength**: 1 multiplies by 100, 0.5 by 10.

    **Visible as**: updates large beside the weights, and curvature beyond the stability limit.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("learning_rate_out_of_line",)
    visibility: ClassVar[str] = "U"
    ids: ClassVar[tuple[str, ...]] = ("D7",)
    severities: ClassVar[tuple[float, ...]] = (0.5, 1.0, 1.5)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs an optimiser and a query projection."""
        if case.optimizer is None:
            return "the case has no optimiser"
        has_one = role_block(attention_of(anatomy, self.layer), "query")
        return "" if has_one else "this attention has no query projection"

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Splits the group."""
        block = role_block(attention_of(anatomy, self.layer), "query")
        parameters = block_parameters(case.model, anatomy, block)
        if case.optimizer is not None:
            split_off(case.optimizer, parameters, factor=GROWTH**self.strength)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The query projection, and what shares a parameter with it."""
        return blocks_of_parameters(anatomy, role_block(attention_of(anatomy, self.layer), "query"))
