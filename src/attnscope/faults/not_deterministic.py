"""The scores of one layer carry fresh noise in every forward pass, in eval mode too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._scores import Scores, obstacle_of, retell


@dataclass(frozen=True)
class NotDeterministic(Fault):
    """Adds noise to the scores of one layer, whatever the mode.

    **Injects**: scores + 0.1 strength noise.

    **Strength**: 1 adds a tenth of a standard normal number.

    **Visible as**: two evaluations that differ.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("not_deterministic", "dropout_in_eval")

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs the softmax's line."""
        attention = attention_of(anatomy, self.layer)
        return obstacle_of(case, anatomy, attention.layer)

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Retells the pattern of the layer."""
        attention = attention_of(anatomy, self.layer)

        def tell(scores: Scores) -> Tensor:
            noise = 0.1 * self.strength * torch.randn_like(scores.bare)
            return scores.normalise(scores.masked(scores.bare + noise))

        retell(case.model, anatomy, (attention.layer,), tell)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The scores, and the model as a whole."""
        name = attention_of(anatomy, self.layer).name
        return (f"{name}.scores", f"{name}.softmax", "model")
