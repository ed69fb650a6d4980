"""The query and key space of every head, turned."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attnscope.anatomy.blocks import Anatomy, ParameterSlice, Role
from attnscope.bench.controls import Control
from attnscope.bench.controls._weights import PRODUCTS, attentions_of, heads, pieces
from attnscope.case import Case
from attnscope.tasks import generator


@dataclass(frozen=True)
class QueryKeyRotated(Control):
    """Turns queries and keys of each head by one random orthogonal matrix.

    **Changes**: W_Q to R W_Q, W_K to R W_K, and the biases likewise, R drawn anew for every head. The optimiser is
    left out: what it remembers of single weights does not turn with them.

    **Why it is healthy**: a rotation leaves every product of a query and a key as it was.
    """

    @torch.no_grad()
    def change(self, case: Case, anatomy: Anatomy) -> None:
        """Turns."""
        cut = [
            (attention, heads(attention, Role.QUERY), heads(attention, Role.KEY))
            for attention in attentions_of(anatomy, *PRODUCTS)
        ]
        named = {name: parameter.detach() for name, parameter in case.model.named_parameters()}
        for attention, queries, keys in cut:
            random = generator(self.seed, attention.layer)
            for query, key in zip(queries, keys, strict=True):
                width = sum(stop - start for start, stop in query[0].ranges)
                turn = torch.linalg.qr(torch.randn(width, width, generator=random, dtype=torch.float64)).Q
                for piece in (*query, *key):
                    _turn(named, piece, turn)
        case.optimizer = None


def _turn(named: dict[str, Tensor], piece: ParameterSlice, turn: Tensor) -> None:
    """Multiplies a slice, along its own dimension, by the matrix."""
    parts = [part.movedim(piece.dim or 0, 0) for part in pieces(named, (piece,))]
    whole = torch.cat(parts)
    turned = torch.tensordot(turn, whole.double(), dims=1).to(whole.dtype)
    for part, new in zip(parts, turned.split([len(part) for part in parts]), strict=True):
        part.copy_(new)
