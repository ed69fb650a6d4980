"""While decoding, some requests of a batch continue with the cache of another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._cache import cache_obstacle, retell_cache


@dataclass(frozen=True)
class CacheLeaked(Fault):
    """Hands the new keys and values of one example to the next in one layer, as a server with mixed slots does.

    **Injects**: the entries of each call rolled along the batch.

    **Strength**: the share of the examples, from the first (at least two).

    **Visible as**: decoding with the cache departs from a fresh run.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("wrong_cache_position",)
    visibility: ClassVar[str] = "I"
    ids: ClassVar[tuple[str, ...]] = ("CLK",)
    severities: ClassVar[tuple[float, ...]] = (0.25, 0.5, 1.0)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a model that decodes with a cache."""
        return cache_obstacle(case)

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Changes what the cache holds after each call."""
        layer = attention_of(anatomy, self.layer).layer
        strength = self.strength

        def tell(place: int, keys: Tensor, values: Tensor, n_before: int) -> tuple[Tensor, Tensor]:
            if place != layer or len(keys) < 2:
                return keys, values
            n_wrong = min(len(keys), max(2, round(strength * len(keys))))
            return _handed_on(keys, n_before, n_wrong), _handed_on(values, n_before, n_wrong)

        retell_cache(case, tell)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The cache of this layer."""
        return (f"{attention_of(anatomy, self.layer).name}.cache",)


def _handed_on(entries: Tensor, n_before: int, n_wrong: int) -> Tensor:
    """The entries with those from `n_before` on rolled among the first examples."""
    old, new = entries[..., :n_before, :], entries[..., n_before:, :]
    return torch.cat((old, torch.cat((new[:n_wrong].roll(1, 0), new[n_wrong:]))), -2)
