"""Dropout falls on the scores of one layer instead of the pattern."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._scores import Scores, obstacle_of, retell


@dataclass(frozen=True)
class DropoutBeforeSoftmax(Fault):
    """Zeroes scores at random in train mode; a zero among scores is a weight like any other.

    **Injects**: dropout at rate 0.3 strength before the softmax.

    **Strength**: 1 drops three scores in ten.

    **Visible as**: the place of the dropout in the forward pass in train mode.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("dropout_before_softmax",)
    visibility: ClassVar[str] = "I"
    ids: ClassVar[tuple[str, ...]] = ("SPD",)
    severities: ClassVar[tuple[float, ...]] = (1 / 3, 1.0, 5 / 3)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs the softmax's line."""
        attention = attention_of(anatomy, self.layer)
        return obstacle_of(case, anatomy, attention.layer)

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Retells the pattern of the layer."""
        attention = attention_of(anatomy, self.layer)

        def tell(scores: Scores) -> Tensor:
            dropped = nn.functional.dropout(scores.bare, 0.3 * self.strength, training=scores.training)
            return scores.normalise(scores.masked(dropped))

        retell(case.model, anatomy, (attention.layer,), tell)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The dropout."""
        name = attention_of(anatomy, self.layer).name
        return (f"{name}.dropout", f"{name}.scores",)
