"""How large the weights of each block are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from attnscope.lenses import Lens
from attnscope.lenses._parameters import flat, named
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
            numbers = flat(parameters, block)
            norm = float(numbers.norm())
            values.append(norm / max(numbers.numel(), 1) ** 0.5)
            facts["norm"].append(norm)
            facts["numel"].append(numbers.numel())
            facts["largest"].append(float(numbers.abs().max()) if numbers.numel() else 0.0)
            bad = int((~numbers.isfinite()).sum())
            if bad:
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
