"""A share of the tokens has no embedding: their rows are zero."""

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
class EmbeddingRowsZeroed(Fault):
    """Zeroes rows of the table of tokens, and keeps them zero while training.

    **Injects**: rows drawn with the seed = 0, after each optimiser step too, as after a vocabulary that was
    extended without initialisation.

    **Strength**: the share of the rows (at least one).

    **Visible as**: tokens that the model cannot tell apart.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("zeroed_weights",)
    visibility: ClassVar[str] = "C"
    ids: ClassVar[tuple[str, ...]] = ("ETZ", "H13")
    severities: ClassVar[tuple[float, ...]] = (0.1, 0.3, 0.5)
    layered: ClassVar[bool] = False

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a table of tokens."""
        return table_obstacle(anatomy)

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Zeroes the rows."""
        block = embedding_block(anatomy)
        if block is None:
            return
        piece = block.slices[0]
        n_rows = piece.shape[0]
        drawn = torch.randperm(n_rows, generator=torch.Generator().manual_seed(self.seed))
        rows = drawn[: max(1, round(self.strength * n_rows))]

        def zero(model: nn.Module, n_steps: int) -> None:
            views(model, (piece,))[0][rows] = 0

        hold(case, zero)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The table."""
        return table_places(anatomy)
