"""How large the weights of each block are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from attnscope.lenses import Lens
from attnscope.lenses._parameters import named, part
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class WeightNorms(Lens):
    """The root mean square of each block's numbers.

    **Measures** sqrt(mean of squares) over the block's parameters, biases included (unit: parameter).

    **Reading it** compare blocks of one role between layers; a factor of ten stands out. A block of zeros
    reads 0. Scaling queries up and keys down changes this without changing the function: it names no
    fault alone.

    **Shapes** [block]. Facts: `norm`: Frobenius norm per block; `numel`; `largest`: largest absolute number;
    `not_finite`: blocks that hold NaN or infinity, with how many.

    **Cost** one pass over the parameters.

    **Reference** none needed.
    """

    unit: ClassVar[str] = "parameter"
    dims: ClassVar[tuple[str, ...]] = ("block",)
    needs: ClassVar[tuple[str, ...]] = ("weights",)

    def measure(self, probe: Probe) -> Reading:
        """The size of every block."""
        parameters = named(probe.model)
        values, facts = [], _empty()
        for block in probe.anatomy.blocks:
            pieces = [part(parameters, piece) for piece in block.slices]
            norms = [torch.linalg.vector_norm(piece, dtype=torch.float64) for piece in pieces]
            norm = float(torch.stack(norms).norm())
            values.append(norm / max(block.numel, 1) ** 0.5)
            facts["norm"].append(norm)
            facts["numel"].append(block.numel)
            facts["largest"].append(max(float(piece.abs().max()) for piece in pieces if piece.numel()))
            if not math.isfinite(norm):
                bad = sum(int((~piece.isfinite()).sum()) for piece in pieces)
                facts["not_finite"].append({"block": block.name, "count": bad})
        if not values:
            return self.not_applicable("the model has no parameters")
        note = ""
        if facts["not_finite"]:
            note = f"{facts['not_finite'][0]['block']} holds numbers that are not finite"
            values = [value if value == value else float("inf") for value in values]
        names = tuple(block.name for block in probe.anatomy.blocks)
        return self.reading(values, coords={"block": names}, note=note, step=probe.step, facts=facts)


def _empty() -> dict[str, list[Any]]:
    return {"norm": [], "numel": [], "largest": [], "not_finite": []}
