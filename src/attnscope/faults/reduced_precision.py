"""One layer computes its scores and pattern in low precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._scores import Scores, obstacle_of, retell

FORMATS = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float8_e4m3fn": torch.float8_e4m3fn,
}


@dataclass(frozen=True)
class ReducedPrecision(Fault):
    """Rounds queries, keys, scores and pattern of one layer to a narrow number format.

    **Injects**: each of them cast there and back.

    **Strength**: how much of the pattern comes from the rounded path.

    **Visible as**: patterns on a coarse grid, whose rows sum to one only as far as it goes.

    Attributes:
        precision: `bfloat16` (8 bits), `float16` (11) or `float8_e4m3fn` (4).
    """

    precision: str = "bfloat16"
    recognised_as: ClassVar[tuple[str, ...]] = ("pattern_rounded", "rows_not_normalised")
    visibility: ClassVar[str] = "B"
    ids: ClassVar[tuple[str, ...]] = ("KRP",)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs the softmax's line, and a known format."""
        if self.precision not in FORMATS:
            return f"there is no precision {self.precision!r}; there are {', '.join(FORMATS)}"
        return obstacle_of(case, anatomy, attention_of(anatomy, self.layer).layer)

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Retells the pattern of the layer."""
        attention = attention_of(anatomy, self.layer)
        strength, precision = self.strength, FORMATS[self.precision]

        def tell(scores: Scores) -> Tensor:
            def rounded(tensor: Tensor) -> Tensor:
                return tensor + (tensor.detach().to(precision).to(tensor.dtype) - tensor.detach())

            low = rounded(scores.remake(rounded(scores.query), rounded(scores.key)))
            pattern = rounded(scores.normalise(scores.masked(low)))
            return pattern if strength >= 1 else scores.normalise(scores.masked()).lerp(pattern, strength)

        retell(case.model, anatomy, (attention.layer,), tell)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The scores and the softmax."""
        name = attention_of(anatomy, self.layer).name
        return (f"{name}.scores", f"{name}.softmax")
