"""Each block's learning rate relative to the median block's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from attnscope.lenses import Lens
from attnscope.lenses._optimizer import groups_by_parameter
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class LearningRates(Lens):
    """Each block's learning rate relative to the median block's.

    **Measures**: the learning rate of the parameter group that holds the block, divided by the median over
    trained blocks; NaN for a block that the optimiser does not hold. The facts hold the rates themselves
    (`rates`), the weight decays (`weight_decay`), and blocks whose parameters are in groups of different rates
    (`mixed`).

    **Reading it**: 1 throughout with one group. Layer-wise decay gives a smooth row between 0.1 and 1; a head
    on top of a pre-trained body 10 or more. One block alone far from its neighbours is seldom meant.

    **Shapes**: (block,).

    **Cost**: none.

    **Reference**: Howard and Ruder, 2018, arXiv:1801.06146 (discriminative rates).
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("block",)
    needs: ClassVar[tuple[str, ...]] = ("optimizer",)

    def measure(self, probe: Probe) -> Reading:
        """Reads the optimiser's groups."""
        if probe.optimizer is None:
            return self.not_applicable("no optimiser is given; pass Case(..., optimizer=...)")
        groups = groups_by_parameter(probe)
        rates: dict[str, float] = {}
        decays: dict[str, float] = {}
        mixed: list[str] = []
        for block in probe.anatomy.blocks:
            held = [groups[piece.parameter] for piece in block.slices if piece.parameter in groups]
            own = sorted({_number(group.get("lr")) for group in held})
            if own and own[-1] == own[-1]:
                rates[block.name] = own[-1]
                decays[block.name] = max(_number(group.get("weight_decay", 0.0)) for group in held)
            if len(own) > 1:
                mixed.append(block.name)
        if not rates:
            return self.not_applicable("the optimiser holds no parameter of the model with a learning rate")
        median = float(np.median(list(rates.values())))
        names = tuple(block.name for block in probe.anatomy.blocks)
        values = [rates[name] / median if name in rates and median > 0 else float("nan") for name in names]
        if all(value != value for value in values):
            return self.not_applicable(f"the median learning rate is {median}")
        return self.reading(
            values,
            coords={"block": names},
            step=probe.step,
            facts={"rates": rates, "median": median, "weight_decay": decays, "mixed": mixed},
        )


def _number(value: Any) -> float:
    return float(value) if value is not None else float("nan")
