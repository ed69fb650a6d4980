"""Query and key projections of one layer have changed places, as after a wrong mapping of names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attnscope.anatomy.blocks import Anatomy, Kind
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._parameters import block_views, role_block
from attnscope.faults._scores import Scores, obstacle_of, retell


@dataclass(frozen=True)
class SwappedQueryKey(Fault):
    """Exchanges the numbers of W_Q and W_K (and their biases) of one layer.

    **Injects**: in eval mode every score matrix without its positions becomes its own transpose. In train mode the
    scores of a self-attention are turned back, as the mistake is made when trained weights are stored or loaded;
    training would heal it otherwise, since the two projections are alike to it.

    **Strength**: how far each moves towards the other; 1 exchanges them. Below 1 training may heal it.

    **Visible as**: exchanging them again lowers the loss.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("swapped_query_key",)
    visibility: ClassVar[str] = "C"
    ids: ClassVar[tuple[str, ...]] = ("QSW",)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs both projections, of equal shape."""
        attention = attention_of(anatomy, self.layer)
        names = [role_block(attention, role) for role in ("query", "key")]
        if not all(names) or names[0] == names[1]:
            return "this attention has no two projections for query and key"
        query, key = (block_views(case.model, anatomy, name) for name in names)
        alike = [part.shape for part in query] == [part.shape for part in key]
        return "" if alike else "query and key differ in shape"

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Exchanges the numbers."""
        attention = attention_of(anatomy, self.layer)
        queries = block_views(case.model, anatomy, role_block(attention, "query"))
        keys = block_views(case.model, anatomy, role_block(attention, "key"))
        with torch.no_grad():
            for query, key in zip(queries, keys, strict=True):
                kept = query.clone()
                query.lerp_(key, self.strength)
                key.lerp_(kept, self.strength)
        square = attention.kind is Kind.SELF and attention.n_queries == attention.n_keys
        if self.strength >= 1 and square and not obstacle_of(case, anatomy, attention.layer):
            retell(case.model, anatomy, (attention.layer,), _turned_back_in_training)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """Both projections."""
        attention = attention_of(anatomy, self.layer)
        return (role_block(attention, "query"), role_block(attention, "key"))


def _turned_back_in_training(scores: Scores) -> Tensor:
    return scores.normalise(scores.masked(scores.bare.mT if scores.training else None))
