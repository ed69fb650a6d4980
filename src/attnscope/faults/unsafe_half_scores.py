"""One layer takes its softmax in half precision without subtracting the largest score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._scores import Scores, obstacle_of, retell


@dataclass(frozen=True)
class UnsafeHalfScores(Fault):
    """Computes the softmax of one layer in float16 as exp(scores) over their sum.

    **Injects**: the exponentials and their sum rounded to float16; a score above 11 overflows, one below -17 is lost.

    **Strength**: how much of the pattern comes from this softmax.

    **Visible as**: rounded patterns, rows that do not sum to one, and NaN as soon as scores grow.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("pattern_rounded", "not_finite", "rows_not_normalised")
    visibility: ClassVar[str] = "A"
    ids: ClassVar[tuple[str, ...]] = ("SUC",)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs the softmax's line."""
        return obstacle_of(case, anatomy, attention_of(anatomy, self.layer).layer)

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Retells the pattern of the layer."""
        attention = attention_of(anatomy, self.layer)
        strength = self.strength

        def tell(scores: Scores) -> Tensor:
            masked = scores.masked()
            raised = masked.half().exp()
            unsafe = (raised / raised.sum(scores.dim, keepdim=True)).to(masked.dtype)
            return unsafe if strength >= 1 else scores.normalise(masked).lerp(unsafe, strength)

        retell(case.model, anatomy, (attention.layer,), tell)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The softmax and the scores."""
        name = attention_of(anatomy, self.layer).name
        return (f"{name}.softmax", f"{name}.scores")
