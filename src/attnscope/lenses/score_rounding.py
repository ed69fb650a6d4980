"""How much of the attention changes when its scores are computed in half precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attnscope.lenses import Lens
from attnscope.lenses._per_head import heads_reading, nested
from attnscope.lenses._rows import Rows, rows, score_cells
from attnscope.probe import Probe
from attnscope.readings import Reading

PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class ScoreRounding(Lens):
    """How much of each head's attention moves when the scores are rounded to half precision.

    **Measures** the mean over real queries of the total variation distance between the softmax of the
    scores and the softmax of the same scores rounded to `precision`, the softmax itself in float64 (unit
    1). Only the storage of the scores is imitated; rounding of queries and keys comes on top.

    **Reading it** where several keys compete, about 2^-9 times the size of the scores in bfloat16 (2^-12 in
    float16): below 0.002 for scores near 1, several percent near 100. Above 0.05 the model attends elsewhere
    in that precision than in float32. Rows that look at one token by far are safe at any size. 1 where scores
    overflow.

    **Shapes** [layer, head]. Facts: `bfloat16`, `float16`: the same for either precision per [layer][head].

    **Cost** one forward pass, shared, and two softmaxes.

    **Reference** Micikevicius et al. 2018, Mixed Precision Training, arXiv:1710.03740.
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("layer", "head")
    needs: ClassVar[tuple[str, ...]] = ("pattern",)

    precision: str = "bfloat16"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, found {self.precision!r}")

    def measure(self, probe: Probe) -> Reading:
        """The rounding error of each head."""
        errors: dict[str, list[Tensor | None]] = {name: [] for name in PRECISIONS}
        for layer in rows(probe):
            scores, seen = score_cells(layer)
            for name, dtype in PRECISIONS.items():
                due = seen.sum(-1) >= 2
                errors[name].append(_moved(layer, scores, seen, dtype) if bool(due.any()) else None)
        return heads_reading(
            self, probe, errors[self.precision], why_none="no query may see two keys",
            facts={name: nested(found) for name, found in errors.items()},
        )


def _moved(layer: Rows, scores: Tensor, seen: Tensor, dtype: torch.dtype) -> Tensor:
    """Per head, the mean share of attention that rounding moves; a row that overflows counts as 1."""
    due = seen.sum(-1) >= 2
    rounded = scores.to(dtype).double()
    exact = torch.where(seen, scores, -torch.inf).softmax(-1)
    other = torch.where(seen, rounded, -torch.inf).softmax(-1)
    moved = (exact - other).abs().sum(-1) / 2
    overflown = (seen & rounded.isinf() & scores.isfinite()).any(-1)
    return layer.mean(torch.where(overflown, torch.ones_like(moved), moved), due)
