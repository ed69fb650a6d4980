"""One layer of an encoder sees only what came before: it has a decoder's mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attnscope.anatomy.blocks import Anatomy, Kind
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._scores import Scores, obstacle_of, retell


@dataclass(frozen=True)
class CausalEncoder(Fault):
    """Forbids the future to one layer that should see all of the text.

    **Injects**: a causal mask on top of the attention's own.

    **Strength**: 1 forbids the future; less takes 10 strength off its scores.

    **Visible as**: no mass on later tokens in this layer, where the others have it.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("future_hidden",)
    visibility: ClassVar[str] = "A"
    ids: ClassVar[tuple[str, ...]] = ("VEC",)
    severities: ClassVar[tuple[float, ...]] = (0.1, 0.5, 1.0)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a self-attention that sees the future."""
        attention = attention_of(anatomy, self.layer)
        if attention.kind is not Kind.SELF or attention.n_queries != attention.n_keys:
            return "this attention is no self-attention"
        if attention.causal_source:
            return "this attention is causal already"
        return obstacle_of(case, anatomy, attention.layer)

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Retells the pattern of the layer."""
        attention = attention_of(anatomy, self.layer)
        strength = self.strength

        def tell(scores: Scores) -> Tensor:
            future = torch.ones(scores.bare.shape[-2:], dtype=torch.bool, device=scores.bare.device).triu(1)
            future = future.expand_as(scores.bare)
            if strength < 1:
                return scores.normalise(scores.masked(scores.bare - 10.0 * strength * future))
            forbidden = future if scores.forbidden is None else future | scores.forbidden
            return scores.normalise(scores.masked(forbidden=forbidden))

        retell(case.model, anatomy, (attention.layer,), tell)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The mask."""
        return (f"{attention_of(anatomy, self.layer).name}.mask",)
