"""The scores of one layer are multiplied by ten: the temperature is too low."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._scores import Scores, obstacle_of, retell

GROWTH = 10.0


@dataclass(frozen=True)
class SharpenedScores(Fault):
    """Divides the scores by a temperature that is too low, in every forward pass.

    **Injects**: scores times 10 to the power of strength.

    **Strength**: 1 multiplies by 10, 0.5 by 3, 2 by 100.

    **Visible as**: sharp patterns, a factor between products and scores that is too large, and little gradient
    where the softmax has become flat.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("saturated_scores", "wrong_scale")
    visibility: ClassVar[str] = "A"
    ids: ClassVar[tuple[str, ...]] = ("H6",)
    severities: ClassVar[tuple[float, ...]] = (0.5, 1.0, 2.0)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs the softmax's line."""
        return obstacle_of(case, anatomy, attention_of(anatomy, self.layer).layer)

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Retells the pattern of the layer."""
        factor = GROWTH**self.strength

        def tell(scores: Scores) -> Tensor:
            return scores.normalise(scores.masked(scores.bare * factor))

        retell(case.model, anatomy, (attention_of(anatomy, self.layer).layer,), tell)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The scores and what makes them sharp."""
        name = attention_of(anatomy, self.layer).name
        return (f"{name}.scores", f"{name}.scale", f"{name}.softmax", f"{name}.Q", f"{name}.K")
