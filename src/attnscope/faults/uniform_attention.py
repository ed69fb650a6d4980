"""The scores of one layer come to almost nothing, so every pattern is uniform."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._scores import Scores, obstacle_of, retell


@dataclass(frozen=True)
class UniformAttention(Fault):
    """Shrinks the scores towards zero, as an attention that never learnt to look anywhere.

    **Injects**: scores times 1 - strength.

    **Strength**: 1 leaves nothing of the scores.

    **Visible as**: entropy at log n for every query, no gradient to query and key.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("uniform_attention",)
    visibility: ClassVar[str] = "A"
    ids: ClassVar[tuple[str, ...]] = ("H6",)
    severities: ClassVar[tuple[float, ...]] = (0.5, 0.9, 1.0)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs the softmax's line."""
        attention = attention_of(anatomy, self.layer)
        return obstacle_of(case, anatomy, attention.layer)

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Retells the pattern of the layer."""
        attention = attention_of(anatomy, self.layer)

        def tell(scores: Scores) -> Tensor:
            return scores.normalise(scores.masked(scores.bare * (1 - self.strength)))

        retell(case.model, anatomy, (attention.layer,), tell)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The scores."""
        name = attention_of(anatomy, self.layer).name
        return (f"{name}.scores", f"{name}.softmax", f"{name}.scale", f"{name}.Q", f"{name}.K",)
