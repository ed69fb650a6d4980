"""The scores of one layer are not divided by the square root of the head width."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._scores import Scores, obstacle_of, retell


@dataclass(frozen=True)
class MissingScale(Fault):
    """Multiplies the scores of one layer by what the scale took away.

    **Injects**: scores divided by scale to the power of strength.

    **Strength**: 1 leaves no scale, 0.5 its square root.

    **Visible as**: the measured factor between products and scores, sharper patterns.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("wrong_scale",)
    visibility: ClassVar[str] = "I"
    ids: ClassVar[tuple[str, ...]] = ("SDS", "V4")

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a scale that was found."""
        attention = attention_of(anatomy, self.layer)
        if attention.expected_scale is None or attention.scale is None:
            return "the scale of this attention is not known"
        return obstacle_of(case, anatomy, attention.layer)

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Retells the pattern of the layer."""
        attention = attention_of(anatomy, self.layer)

        factor = (attention.scale or 1.0) ** -self.strength

        def tell(scores: Scores) -> Tensor:
            return scores.normalise(scores.masked(scores.bare * factor))

        retell(case.model, anatomy, (attention.layer,), tell)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The scale and the scores."""
        name = attention_of(anatomy, self.layer).name
        return (f"{name}.scale", f"{name}.scores",)
