"""The heads of every layer in another order."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attnscope.anatomy.blocks import Anatomy, Role
from attnscope.bench.controls import Control
from attnscope.bench.controls._weights import PRODUCTS, attentions_of, heads, pieces, states
from attnscope.case import Case
from attnscope.tasks import generator

ROLES = (Role.QUERY, Role.KEY, Role.VALUE, Role.OUTPUT)


@dataclass(frozen=True)
class HeadsPermuted(Control):
    """Exchanges whole heads, in every projection alike and in what the optimiser remembers of them.

    **Changes**: the order of the heads of every attention, never to the same one.

    **Why it is healthy**: the output projection sums over heads.
    """

    @torch.no_grad()
    def change(self, case: Case, anatomy: Anatomy) -> None:
        """Permutes."""
        cut = [(item, {role: heads(item, role) for role in ROLES}) for item in attentions_of(anatomy, *PRODUCTS)]
        for tensors in states(case):
            for attention, by_role in cut:
                order = self._order(attention.n_heads, attention.layer)
                for slices in by_role.values():
                    _permute([pieces(tensors, head) for head in slices], order)

    def _order(self, n_heads: int, layer: int) -> list[int]:
        """Another order than the present one."""
        found: list[int] = torch.randperm(n_heads, generator=generator(self.seed, layer)).tolist()
        return found if found != sorted(found) else [*found[1:], found[0]]


def _permute(parts: list[list[Tensor]], order: list[int]) -> None:
    before = [[part.clone() for part in head] for head in parts]
    for head, source in enumerate(order):
        for part, other in zip(parts[head], before[source], strict=True):
            part.copy_(other)
