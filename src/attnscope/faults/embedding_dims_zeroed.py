"""A share of the embedding's dimensions is zero for every token."""

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
class EmbeddingDimsZeroed(Fault):
    """Zeroes columns of the table of tokens, and keeps them zero while training.

    **Injects**: columns drawn with the seed = 0, after each optimiser step too.

    **Strength**: the share of the columns (at least one).

    **Visible as**: less room in which tokens differ.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("zeroed_weights",)
    visibility: ClassVar[str] = "C"
    ids: ClassVar[tuple[str, ...]] = ("EZD",)
    severities: ClassVar[tuple[float, ...]] = (0.1, 0.3, 0.5)
    layered: ClassVar[bool] = False

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a table of tokens."""
        return table_obstacle(anatomy)

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Zeroes the columns."""
        block = embedding_block(anatomy)
        if block is None:
            return
        piece = block.slices[0]
        n_columns = piece.shape[1]
        drawn = torch.randperm(n_columns, generator=torch.Generator().manual_seed(self.seed))
        columns = drawn[: max(1, round(self.strength * n_columns))]

        def zero(model: nn.Module, n_steps: int) -> None:
            views(model, (piece,))[0][:, columns] = 0

        hold(case, zero)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The table."""
        return table_places(anatomy)
