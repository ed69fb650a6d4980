"""Some classes have no weights: their rows of the classifier are zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault
from attnscope.faults._keeping import hold
from attnscope.faults._parameters import views
from attnscope.faults._surroundings import classifier_block, head_places


@dataclass(frozen=True)
class ClassRowsZeroed(Fault):
    """Zeroes the first rows of the last linear map, and keeps them zero while training.

    **Injects**: weights and bias of those classes = 0, after each optimiser step too.

    **Strength**: the share of the classes (at least one).

    **Visible as**: logits of those classes that are the same for every input.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("zeroed_weights",)
    visibility: ClassVar[str] = "C"
    ids: ClassVar[tuple[str, ...]] = ("OZR",)
    severities: ClassVar[tuple[float, ...]] = (0.25, 0.5, 1.0)
    layered: ClassVar[bool] = False

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a classifier of its own."""
        return "" if classifier_block(anatomy) is not None else "the model has no classifier of its own"

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Zeroes the rows."""
        block = classifier_block(anatomy)
        if block is None:
            return
        pieces = block.slices
        n_zero = max(1, round(self.strength * pieces[0].shape[0]))

        def zero(model: nn.Module, n_steps: int) -> None:
            for part in views(model, pieces):
                part[:n_zero] = 0

        hold(case, zero)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The last linear map."""
        return head_places(anatomy)
