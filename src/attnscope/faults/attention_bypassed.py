"""One attention is bypassed: its values are averaged as if no scores had been made."""

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
class AttentionBypassed(Fault):
    """Takes the mean of all allowed values; scores are made, and nothing of them is used.

    **Injects**: (1 - strength) pattern + strength times the same weight for every allowed key.

    **Strength**: the share of the mean; at 1 it is the mean itself, for any scores.

    **Visible as**: even weights, and exactly no gradient and no curvature for query and key.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("uniform_attention",)
    visibility: ClassVar[str] = "I"
    ids: ClassVar[tuple[str, ...]] = ("H11",)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs the softmax's line."""
        return obstacle_of(case, anatomy, attention_of(anatomy, self.layer).layer)

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Retells the pattern of the layer."""

        def tell(scores: Scores) -> Tensor:
            mean = scores.normalise(scores.masked(torch.zeros_like(scores.bare)))
            return scores.normalise(scores.masked()).lerp(mean, self.strength)

        retell(case.model, anatomy, (attention_of(anatomy, self.layer).layer,), tell)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The scores, and what they were made from."""
        attention = attention_of(anatomy, self.layer)
        name = attention.name
        blocks = [attention.blocks[role] for role in ("query", "key") if attention.blocks.get(role)]
        return (f"{name}.scores", f"{name}.softmax", f"{name}.scale", *blocks)
