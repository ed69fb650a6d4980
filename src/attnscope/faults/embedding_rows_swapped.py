"""Pairs of tokens change places in the table after every step, so they are mixed up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault
from attnscope.faults._keeping import hold
from attnscope.faults._parameters import views
from attnscope.faults._surroundings import embedding_block, table_obstacle, table_places


@dataclass(frozen=True)
class EmbeddingRowsSwapped(Fault):
    """Exchanges rows of the table of tokens in pairs, again after every step of training.

    **Injects**: pairs drawn with the seed; each row is trained as one token and the other by turns, as with two
    processes that number the vocabulary differently. Exchanged once before training the rows would be a
    vocabulary like any other.

    **Strength**: the share of the rows that change places (at least two).

    **Visible as**: tokens that the model mixes up.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ()
    visibility: ClassVar[str] = "C"
    ids: ClassVar[tuple[str, ...]] = ("ESW", "H13")
    severities: ClassVar[tuple[float, ...]] = (0.1, 0.3, 0.5)
    layered: ClassVar[bool] = False

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a table of tokens."""
        return table_obstacle(anatomy)

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Exchanges the rows."""
        block = embedding_block(anatomy)
        if block is None:
            return
        piece = block.slices[0]
        n_rows = piece.shape[0]
        drawn = torch.randperm(n_rows, generator=torch.Generator().manual_seed(self.seed))
        n_pairs = max(1, round(self.strength * n_rows / 2))
        here = drawn[: 2 * n_pairs]
        there = here.roll(n_pairs)

        def exchange(model: nn.Module, n_steps: int) -> None:
            table = views(model, (piece,))[0]
            table[here] = table[there]

        hold(case, exchange)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The table."""
        return table_places(anatomy)
