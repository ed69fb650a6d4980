"""Queries times a number, keys over the same number."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from attnscope.anatomy.blocks import Anatomy, Role
from attnscope.bench.controls import Control
from attnscope.bench.controls._weights import PRODUCTS, attentions_of, projection, scale
from attnscope.case import Case


@dataclass(frozen=True)
class QueryKeyRescaled(Control):
    """Multiplies the query projection of every attention by a number and divides the key projection by it.

    **Changes**: W_Q, b_Q times c; W_K, b_K over c. The optimiser is left out: its steps would be as long as before,
    which is too long for weights that are now smaller.

    **Why it is healthy**: queries meet keys only in their product, which is the same.

    Attributes:
        c: the number; a power of two rounds nothing.
    """

    c: float = 4.0

    @torch.no_grad()
    def change(self, case: Case, anatomy: Anatomy) -> None:
        """Rescales."""
        pairs = [
            (projection(anatomy, attention, Role.QUERY), projection(anatomy, attention, Role.KEY))
            for attention in attentions_of(anatomy, *PRODUCTS)
        ]
        for query, key in pairs:
            scale(case, query, self.c)
            scale(case, key, 1 / self.c)
        case.optimizer = None
