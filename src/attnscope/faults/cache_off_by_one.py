"""While decoding, one layer stores new keys and values one place too early."""

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
class CacheOffByOne(Fault):
    """Writes each new entry of the cache over the one before it, and leaves its own place empty.

    **Injects**: the new entries moved one place back, a row of zeros at the end.

    **Strength**: how much of each entry is the misplaced one.

    **Visible as**: decoding with the cache departs from a fresh run.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("wrong_cache_position",)
    visibility: ClassVar[str] = "I"
    ids: ClassVar[tuple[str, ...]] = ("COB",)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a model that decodes with a cache."""
        return cache_obstacle(case)

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Changes what the cache holds after each call."""
        strength = self.strength

        def change(keys: Tensor, values: Tensor, n_before: int) -> tuple[Tensor, Tensor]:
            return _moved(keys, n_before, strength), _moved(values, n_before, strength)

        retell_decoded(case, attention_of(anatomy, self.layer).layer, change)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The cache of this layer."""
        return (f"{attention_of(anatomy, self.layer).name}.cache",)


def _moved(entries: Tensor, n_before: int, strength: float) -> Tensor:
    """The entries with those from `n_before` on one place earlier."""
    kept, moved = entries[..., : n_before - 1, :], entries[..., n_before:, :]
    wrong = torch.cat((kept, moved, torch.zeros_like(moved[..., :1, :])), -2)
    return entries.lerp(wrong, strength)
