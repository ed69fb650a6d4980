"""The attention projections of two neighbouring layers have changed places."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._parameters import block_views, role_block

ROLES = ("query", "key", "value", "output", "query_key")


@dataclass(frozen=True)
class SwappedLayers(Fault):
    """Exchanges all projections of one layer's attention with the next layer's, once.

    **Injects**: as a loader does that counts layers wrongly. Training heals it slowly.

    **Strength**: how far each moves towards the other; 1 exchanges them.

    **Visible as**: exchanging them again lowers the loss.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("swapped_layers",)
    visibility: ClassVar[str] = "C"

    def _pair(self, anatomy: Anatomy) -> tuple[int, int]:
        here = attention_of(anatomy, self.layer).layer
        return here, here + 1 if here + 1 < len(anatomy.attentions) else here - 1

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a second layer whose projections have the same shapes and are not the same parameters."""
        if len(anatomy.attentions) < 2:
            return "the model has one attention only"
        one, two = (self._views(case, anatomy, layer) for layer in self._pair(anatomy))
        if [part.shape for part in one] != [part.shape for part in two]:
            return "the neighbouring layers differ in shape"
        shared = {part.data_ptr() for part in one} & {part.data_ptr() for part in two}
        return "the neighbouring layers share their parameters" if shared else ""

    def _views(self, case: Case, anatomy: Anatomy, layer: int) -> list[torch.Tensor]:
        names = [role_block(anatomy.attentions[layer], role) for role in ROLES]
        return [part for name in names if name for part in block_views(case.model, anatomy, name)]

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Exchanges the numbers."""
        first, second = (self._views(case, anatomy, layer) for layer in self._pair(anatomy))
        with torch.no_grad():
            for one, two in zip(first, second, strict=True):
                kept = one.clone()
                one.lerp_(two, self.strength)
                two.lerp_(kept, self.strength)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """Every projection of both layers."""
        attentions = [anatomy.attentions[layer] for layer in self._pair(anatomy)]
        names = tuple(role_block(attention, role) for attention in attentions for role in ROLES)
        return (*(name for name in names if name), *(attention.name for attention in attentions))
