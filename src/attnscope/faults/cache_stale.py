"""While decoding, the cache of one layer keeps repeating the last token of the prompt."""

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
class CacheStale(Fault):
    """Stores the previous key and value again in place of the new ones, at each step of decoding.

    **Injects**: (1 - strength) times the new entry plus strength times the one before it. The prompt itself is stored
    rightly; one run over a whole text does not change.

    **Strength**: how stale the entries are.

    **Visible as**: decoding with the cache departs from a fresh run.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("wrong_cache_position",)
    visibility: ClassVar[str] = "I"
    ids: ClassVar[tuple[str, ...]] = ("CST",)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a model that decodes with a cache."""
        return cache_obstacle(case)

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Changes what the cache holds after each call."""
        strength = self.strength

        def change(keys: Tensor, values: Tensor, n_before: int) -> tuple[Tensor, Tensor]:
            return _repeated(keys, n_before, strength), _repeated(values, n_before, strength)

        retell_decoded(case, attention_of(anatomy, self.layer).layer, change)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The cache of this layer."""
        return (f"{attention_of(anatomy, self.layer).name}.cache",)


def _repeated(entries: Tensor, n_before: int, strength: float) -> Tensor:
    """The entries from `n_before` on, moved towards the last one before them."""
    old, new = entries[..., :n_before, :], entries[..., n_before:, :]
    return torch.cat((old, new.lerp(old[..., -1:, :].expand_as(new), strength)), -2)
