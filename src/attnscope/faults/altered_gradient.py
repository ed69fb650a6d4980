"""The gradient of one layer's keys is halved on the way back, the forward pass being right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._scores import Scores, obstacle_of, retell


@dataclass(frozen=True)
class AlteredGradient(Fault):
    """Lets only part of the keys' gradient through, as a wrong custom backward pass does.

    **Injects**: (strength / 2) key.detach() + (1 - strength / 2) key in the score product.

    **Strength**: 1 loses half of the gradient.

    **Visible as**: an identity between the gradients of query and key that is broken; nothing else.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("altered_gradient",)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a key projection."""
        attention = attention_of(anatomy, self.layer)
        if not attention.blocks.get("key"):
            return "this attention has no key projection"
        return obstacle_of(case, anatomy, attention.layer)

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Retells the pattern of the layer."""
        attention = attention_of(anatomy, self.layer)
        share = 1 - self.strength / 2

        def tell(scores: Scores) -> Tensor:
            key = scores.key.detach().lerp(scores.key, share)
            return scores.normalise(scores.masked(scores.remake(scores.query, key)))

        retell(case.model, anatomy, (attention.layer,), tell)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The two projections whose gradients no longer agree."""
        attention = attention_of(anatomy, self.layer)
        both = tuple(attention.blocks[role] for role in ("key", "query") if role in attention.blocks)
        return (*both, f"{attention.name}.K", f"{attention.name}.Q", f"{attention.name}.QK", f"{attention.name}.scores")
