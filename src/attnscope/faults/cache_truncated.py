"""While decoding, the cache forgets all but the last tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault
from attnscope.faults._cache import cache_obstacle, retell_cache


@dataclass(frozen=True)
class CacheTruncated(Fault):
    """Cuts the cache of every layer to its last entries after each call.

    **Injects**: the oldest entries dropped; positions that count from the length of the cache are wrong then, too.

    **Strength**: the share of the first batch's length that is cut off (one entry is kept).

    **Visible as**: decoding with the cache departs from a fresh run, from the length on at which it is cut.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("wrong_cache_position",)
    visibility: ClassVar[str] = "I"
    ids: ClassVar[tuple[str, ...]] = ("CTR",)
    severities: ClassVar[tuple[float, ...]] = (0.25, 0.5, 0.75)
    layered: ClassVar[bool] = False

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a model that decodes with a cache."""
        return cache_obstacle(case)

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Changes what the cache holds after each call."""
        length = max(attention.n_keys for attention in anatomy.attentions)
        n_kept = max(1, round((1 - self.strength) * length))

        def tell(place: int, keys: Tensor, values: Tensor, n_before: int) -> tuple[Tensor, Tensor]:
            return keys[..., -n_kept:, :], values[..., -n_kept:, :]

        retell_cache(case, tell)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The cache of every layer."""
        return tuple(f"{attention.name}.cache" for attention in anatomy.attentions)
