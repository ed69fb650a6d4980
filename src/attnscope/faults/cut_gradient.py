"""The keys of one layer are detached, so nothing behind them learns from the scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._scores import Scores, obstacle_of, retell


@dataclass(frozen=True)
class CutGradient(Fault):
    """Cuts the gradient path through the keys; the forward pass does not change at all.

    **Injects**: strength key.detach() + (1 - strength) key in the score product.

    **Strength**: the share of the gradient that is lost.

    **Visible as**: a key projection on which the output depends, with exactly no gradient.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("cut_gradient",)
    visibility: ClassVar[str] = "I"

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a key projection."""
        attention = attention_of(anatomy, self.layer)
        if not attention.blocks.get("key"):
            return "this attention has no key projection"
        return obstacle_of(case, anatomy, attention.layer)

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Retells the pattern of the layer."""
        attention = attention_of(anatomy, self.layer)

        def tell(scores: Scores) -> Tensor:
            key = scores.key.detach().lerp(scores.key, 1 - self.strength)
            return scores.normalise(scores.masked(scores.remake(scores.query, key)))

        retell(case.model, anatomy, (attention.layer,), tell)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The key projection."""
        attention = attention_of(anatomy, self.layer)
        return (attention.blocks["key"], f"{attention.name}.K")
