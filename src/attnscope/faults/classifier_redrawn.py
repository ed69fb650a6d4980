"""The classifier is initialised anew after every step, so it never learns."""

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
from attnscope.faults._surroundings import classifier_block, head_places

STEPS_OF_A_SEED = 1_000_003  # so that no two seeds draw the same numbers


@dataclass(frozen=True)
class ClassifierRedrawn(Fault):
    """Puts random numbers in place of the last linear map's, again after every step of training.

    **Injects**: numbers as spread as those it had, drawn with the seed and the number of the step, as when the head is
    built inside the loop or not found in the checkpoint.

    **Strength**: how far each weight goes towards its new number.

    **Visible as**: a last layer that never comes to fit what is before it.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ()
    visibility: ClassVar[str] = "U"
    ids: ClassVar[tuple[str, ...]] = ("ORI",)
    severities: ClassVar[tuple[float, ...]] = (0.1, 0.3, 1.0)
    layered: ClassVar[bool] = False

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs a classifier of its own."""
        return "" if classifier_block(anatomy) is not None else "the model has no classifier of its own"

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Draws the numbers."""
        block = classifier_block(anatomy)
        if block is None:
            return
        pieces, strength, seed = block.slices, self.strength, self.seed
        spreads = [float(part.square().mean().sqrt()) for part in views(case.model, pieces)]

        def redraw(model: nn.Module, n_steps: int) -> None:
            generator = torch.Generator().manual_seed(STEPS_OF_A_SEED * seed + n_steps)
            for part, spread in zip(views(model, pieces), spreads, strict=True):
                fresh = spread * torch.randn(part.shape, generator=generator)
                part.lerp_(fresh.to(part), strength)

        hold(case, redraw)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The last linear map."""
        return head_places(anatomy)
