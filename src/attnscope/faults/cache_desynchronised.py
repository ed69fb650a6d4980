"""While decoding, one layer stores new keys beside the values of the token before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._cache import cache_obstacle, retell_decoded


@dataclass(frozen=True)
class CacheDesynchronised(Fault):
    """Lets the values of the cache lag one token behind the keys, from the first decoded token on.

    **Injects**: (1 - strength) times the new value plus strength times the one before it; keys are right.

    **Strength**: how far the values lag.

    **Visible as**: decoding with the cache departs from a fresh run.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("wrong_cache_position",)
    visibility: ClassVar[str] = "I"
    ids: ClassVar[tuple[str, ...]] = ("CDU",)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a model that decodes with a cache."""
        return cache_obstacle(case)

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Changes what the cache holds after each call."""
        strength = self.strength

        def change(keys: Tensor, values: Tensor, n_before: int) -> tuple[Tensor, Tensor]:
            old, new = values[..., :n_before, :], values[..., n_before:, :]
            late = torch.cat((old[..., -1:, :], new[..., :-1, :]), -2)
            return keys, torch.cat((old, new.lerp(late, strength)), -2)

        retell_decoded(case, attention_of(anatomy, self.layer).layer, change)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The cache of this layer."""
        return (f"{attention_of(anatomy, self.layer).name}.cache",)
