"""One layer splits its queries and keys into too few heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._scores import Scores, heads_obstacle, retell


@dataclass(frozen=True)
class WrongHeadSplit(Fault):
    """Joins neighbouring heads of one layer to wider ones, as a wrong `n_heads` does.

    **Injects**: the pattern of fewer, wider heads, at the scale of the narrow ones; the values of joined heads share
    it.

    **Strength**: 1 leaves one head, 0.5 the square root of their number, to the nearest divisor.

    **Visible as**: equal patterns in neighbouring heads.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ()
    visibility: ClassVar[str] = "A"
    ids: ClassVar[tuple[str, ...]] = ("QHD",)
    severities: ClassVar[tuple[float, ...]] = (0.25, 0.5, 1.0)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs scores with an axis of two heads or more."""
        return heads_obstacle(case, anatomy, attention_of(anatomy, self.layer))

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Retells the pattern of the layer."""
        attention = attention_of(anatomy, self.layer)
        n_heads = attention.n_heads
        divisors = [count for count in range(1, n_heads) if n_heads % count == 0]
        joined = n_heads // min(divisors, key=lambda count: abs(count - n_heads ** (1 - self.strength)))

        def tell(scores: Scores) -> Tensor:
            return scores.normalise(scores.masked(_of_wide_heads(scores.bare, joined)))

        retell(case.model, anatomy, (attention.layer,), tell)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The heads."""
        return (f"{attention_of(anatomy, self.layer).name}.heads",)


def _of_wide_heads(scores: Tensor, joined: int) -> Tensor:
    """The scores `[batch, head, ...]` of wide heads, once for each head in them.

    The product of joined queries and keys is the sum of the products of its parts. Each head stays apart, so that
    the model keeps its shape: the others of its group come to it as a bias does.
    """
    heads = torch.arange(scores.shape[1], device=scores.device)
    first, place = heads - heads % joined, heads % joined
    wide = scores
    for turn in range(1, joined):
        wide = wide + scores[:, first + (place + turn) % joined]
    return wide
