"""Values times a number, the output projection over the same number."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from attnscope.anatomy.blocks import Anatomy, Role
from attnscope.bench.controls import Control
from attnscope.bench.controls._weights import PRODUCTS, attentions_of, projection, scale
from attnscope.case import Case


@dataclass(frozen=True)
class ValueOutputRescaled(Control):
    """Multiplies the value projection of every attention by a number and divides the output projection by it.

    **Changes**: W_V, b_V times c; W_O over c, its bias as it was. The optimiser is left out: its steps would be as
    long as before, which is too long for weights that are now smaller.

    **Why it is healthy**: a pattern weighs values linearly, so the factors cancel.

    Attributes:
        c: the number; a power of two rounds nothing.
    """

    c: float = 4.0

    @torch.no_grad()
    def change(self, case: Case, anatomy: Anatomy) -> None:
        """Rescales."""
        pairs = [
            (projection(anatomy, attention, Role.VALUE), projection(anatomy, attention, Role.OUTPUT))
            for attention in attentions_of(anatomy, *PRODUCTS)
        ]
        for value, output in pairs:
            scale(case, value, self.c)
            scale(case, output[:1], 1 / self.c)
        case.optimizer = None
