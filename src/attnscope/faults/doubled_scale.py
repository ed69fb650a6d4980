"""The scores of one layer are divided by the square root of the head width twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._scores import Scores, obstacle_of, retell


@dataclass(frozen=True)
class DoubledScale(Fault):
    """Multiplies the scores of one layer by the scale once more.

    **Injects**: scores times scale to the power of strength.

    **Strength**: 1 scales twice.

    **Visible as**: the measured factor between products and scores, flatter patterns.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("wrong_scale",)
    visibility: ClassVar[str] = "I"
    ids: ClassVar[tuple[str, ...]] = ("D9",)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a scale that was found."""
        attention = attention_of(anatomy, self.layer)
        if attention.expected_scale is None or attention.scale is None:
            return "the scale of this attention is not known"
        return obstacle_of(case, anatomy, attention.layer)

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Retells the pattern of the layer."""
        attention = attention_of(anatomy, self.layer)

        factor = (attention.scale or 1.0) ** self.strength

        def tell(scores: Scores) -> Tensor:
            return scores.normalise(scores.masked(scores.bare * factor))

        retell(case.model, anatomy, (attention.layer,), tell)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The scale and the scores."""
        name = attention_of(anatomy, self.layer).name
        return (f"{name}.scale", f"{name}.scores",)
