"""How many binary digits the weights of each attention use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from attnscope.lenses import Lens
from attnscope.probe import Probe
from attnscope.readings import Reading

MANY = 16
"""Distinct weights that are asked for. By chance a float32 number fits in 11 digits once in 8192 times."""


@dataclass(frozen=True)
class PatternBits(Lens):
    """How many binary digits the weights of each attention use, whatever number format they are stored in.

    **Measures** the significant binary digits of the weights between 0 and 1, the most that any of them uses
    (unit 1): what lies between its first and its last digit that is set.

    **Reading it** 24 in float32, 53 in float64. 11 or fewer in a float32 model: the weights went through
    float16; 8 or fewer: through bfloat16; 4: an eight-bit format. A cast there and back leaves the format wide and
    the numbers coarse.

    **Shapes** [layer]. NaN where a pattern has fewer than 16 distinct weights (uniform ones say nothing).

    **Cost** one forward pass, shared.

    **Reference** IEEE 754-2019.
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("layer",)
    needs: ClassVar[tuple[str, ...]] = ("pattern",)

    def measure(self, probe: Probe) -> Reading:
        """The digits of each pattern."""
        values = np.array([digits_of(item.pattern) for item in probe.observation.attentions])
        if np.isnan(values).all():
            return self.not_applicable(f"no pattern has {MANY} distinct weights between 0 and 1")
        return self.reading(
            values,
            coords={"layer": tuple(attention.layer for attention in probe.anatomy.attentions)},
            step=probe.step,
        )


def digits_of(pattern: Tensor) -> float:
    """The most significant binary digits that a weight between 0 and 1 uses; NaN when there are few weights."""
    weights = pattern.detach().cpu().double()
    weights = torch.unique(weights[(weights > 0) & (weights < 1)])
    if len(weights) < MANY:
        return float("nan")
    whole = (torch.frexp(weights).mantissa * 2.0**53).long()
    lowest = (whole & -whole).double()  # the last digit that is set
    return float(53 - torch.log2(lowest).min())
