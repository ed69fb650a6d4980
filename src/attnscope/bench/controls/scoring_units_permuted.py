"""The units of the small network that scores each position, in another order."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from attnscope.anatomy.blocks import Anatomy, Form, Role
from attnscope.bench.controls import Control
from attnscope.bench.controls._weights import attentions_of, pieces, projection, states
from attnscope.case import Case
from attnscope.faults import FaultError
from attnscope.tasks import generator


@dataclass(frozen=True)
class ScoringUnitsPermuted(Control):
    """Exchanges the hidden units of additive attention, and what the optimiser remembers of them.

    **Changes**: the rows of W and b in tanh(W h + b) . u, and the entries of u alike.

    **Why it is healthy**: the score sums over units.
    """

    @torch.no_grad()
    def change(self, case: Case, anatomy: Anatomy) -> None:
        """Permutes."""
        found = [
            (item.layer, projection(anatomy, item, Role.KEY) + projection(anatomy, item, Role.QUERY))
            for item in attentions_of(anatomy, Form.ADDITIVE)
        ]
        for tensors in states(case):
            for layer, slices in found:
                parts = pieces(tensors, slices)
                if len({len(part) for part in parts}) > 1:
                    raise FaultError(f"the scoring network of L{layer} has other parts than tanh(W h + b) . u")
                order = torch.randperm(len(parts[0]), generator=generator(self.seed, layer))
                for part in parts:
                    part.copy_(part[order])
