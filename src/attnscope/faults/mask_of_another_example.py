"""One layer masks the padding of other examples: its mask was reshaped wrongly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._scores import Scores, obstacle_of, retell, seen_scores


@dataclass(frozen=True)
class MaskOfAnotherExample(Fault):
    """Gives some examples the padding mask of their neighbours, as a reshape in the wrong order does.

    **Injects**: along `batch`, each example gets the mask of the one before it; along `head`, head h of example b
    gets the mask at place b n_heads + h of the batch repeated head by head. The future stays forbidden.

    **Strength**: the share of the examples, from the first (at least two).

    **Visible as**: mass on padding in some examples, and real tokens that are masked in others.

    Attributes:
        axis: `batch` or `head`.
    """

    axis: str = "batch"
    recognised_as: ClassVar[tuple[str, ...]] = ("padding_attended",)
    visibility: ClassVar[str] = "I"
    ids: ClassVar[tuple[str, ...]] = ("MRM",)
    severities: ClassVar[tuple[float, ...]] = (0.25, 0.5, 1.0)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs examples that differ in their padding."""
        if self.axis not in ("batch", "head"):
            return f"there is no axis {self.axis!r}; there are batch and head"
        attention = attention_of(anatomy, self.layer)
        reason = obstacle_of(case, anatomy, attention.layer, forbidden="padding")
        seen = None if reason else seen_scores(case, anatomy, attention.layer)
        padded = seen.padding_mask() if seen is not None else None
        if reason or padded is None:
            return reason
        if padded.shape[0] != attention.batch_size:
            return "the scores of this attention have no axis of examples"
        if self.axis == "head" and (padded.ndim != 4 or padded.shape[1] < 2):
            return "the scores of this attention have no axis of heads"
        return "" if not bool((padded == padded[:1]).all()) else "all examples have the same padding"

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Retells the pattern of the layer."""
        attention = attention_of(anatomy, self.layer)
        share, axis = self.strength, self.axis

        def tell(scores: Scores) -> Tensor:
            padded = scores.padding_mask()
            if padded is None or scores.forbidden is None:
                return scores.normalise(scores.masked())
            n_wrong = min(len(padded), max(2, round(share * len(padded))))
            wrong = _of_others(padded[:n_wrong], axis)
            mixed = torch.cat((wrong, padded[n_wrong:]))
            return scores.normalise(scores.masked(forbidden=mixed | (scores.forbidden & ~padded)))

        retell(case.model, anatomy, (attention.layer,), tell)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The mask."""
        return (f"{attention_of(anatomy, self.layer).name}.mask",)


def _of_others(padded: Tensor, axis: str) -> Tensor:
    """The masks `[batch, ...]` in another order."""
    if axis == "batch":
        return padded.roll(1, 0)
    n_examples, n_heads = padded.shape[:2]
    place = torch.arange(n_examples * n_heads, device=padded.device).view(n_examples, n_heads)
    head = torch.arange(n_heads, device=padded.device).expand(n_examples, n_heads)
    return padded[place % n_examples, head]
