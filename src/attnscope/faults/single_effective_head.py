"""All heads of one layer look where the first one looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._scores import Scores, heads_obstacle, retell


@dataclass(frozen=True)
class SingleEffectiveHead(Fault):
    """Uses the pattern of the first head for every head of one layer.

    **Injects**: (1 - strength) times the own pattern plus strength times that of head 0.

    **Strength**: how much of each pattern is the first one's.

    **Visible as**: equal patterns of all heads; queries and keys of the other heads get no gradient.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("heads_blended", "duplicated_heads", "cut_gradient")
    visibility: ClassVar[str] = "A"
    ids: ClassVar[tuple[str, ...]] = ("VSH",)
    severities: ClassVar[tuple[float, ...]] = (0.3, 0.6, 1.0)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs scores with an axis of two heads or more."""
        return heads_obstacle(case, anatomy, attention_of(anatomy, self.layer))

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Retells the pattern of the layer."""
        attention = attention_of(anatomy, self.layer)
        strength = self.strength

        def tell(scores: Scores) -> Tensor:
            pattern = scores.normalise(scores.masked())
            return pattern.lerp(pattern[:, :1].expand_as(pattern), strength)

        retell(case.model, anatomy, (attention.layer,), tell)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The heads."""
        name = attention_of(anatomy, self.layer).name
        return (f"{name}.heads", f"{name}.softmax", f"{name}.scores")
