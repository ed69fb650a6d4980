"""One layer sees the future: its causal mask is missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._scores import Scores, obstacle_of, retell


@dataclass(frozen=True)
class FutureLeak(Fault):
    """Takes the future out of the mask of one layer; padding stays forbidden.

    **Injects**: a mask that forbids only the keys forbidden to every query.

    **Strength**: 1 gives future keys their scores; less takes -10 (1 - strength) / strength off them, as
    a mask filled with too small a number does.

    **Visible as**: mass on the future, and earlier outputs that move when a later token does.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("future_leak",)
    visibility: ClassVar[str] = "I"
    ids: ClassVar[tuple[str, ...]] = ("MCB",)
    severities: ClassVar[tuple[float, ...]] = (0.5, 0.75, 1.0)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a causal mask."""
        attention = attention_of(anatomy, self.layer)
        return obstacle_of(case, anatomy, attention.layer, forbidden="future")

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Retells the pattern of the layer."""
        attention = attention_of(anatomy, self.layer)

        penalty = 10.0 * (1 - self.strength) / self.strength

        def tell(scores: Scores) -> Tensor:
            padded = scores.padded_keys()
            if padded is None or scores.forbidden is None:
                return scores.normalise(scores.masked())
            future = scores.forbidden & ~padded
            return scores.normalise(scores.masked(scores.bare - penalty * future, padded))

        retell(case.model, anatomy, (attention.layer,), tell)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The mask."""
        name = attention_of(anatomy, self.layer).name
        return (f"{name}.mask",)
