"""The share of each block's gradient that low precision would lose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from attnscope.lenses import Lens
from attnscope.lenses._block_gradients import gradients_by_block
from attnscope.probe import Probe
from attnscope.readings import Reading

_FORMATS = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class GradientUnderflow(Lens):
    """The share of each block's non-zero gradient entries that are below what a low precision keeps whole.

    **Measures**: the share of non-zero entries smaller than the smallest normal number of float16 (6.1e-5) and
    of bfloat16 (1.2e-38). The facts hold the share that float16 flushes to zero (`lost_float16`) and the share
    that overflows it (`overflow_float16`).

    **Reading it**: matters when gradients are kept in that precision without loss scaling. Near 1 for float16
    the block hardly learns there. bfloat16 stays at zero in any sane model.

    **Shapes**: (block, precision).

    **Cost**: one gradient.

    **Reference**: Micikevicius et al., 2017, arXiv:1710.03740.
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("block", "precision")
    needs: ClassVar[tuple[str, ...]] = ("gradient",)

    def measure(self, probe: Probe) -> Reading:
        """Two shares per block."""
        found = gradients_by_block(probe)
        values, lost, overflow = [], {}, {}
        for item in found:
            size = item.gradient.abs()
            size = size[size > 0]
            count = max(size.numel(), 1)
            values.append([float((size < torch.finfo(kind).tiny).sum()) / count for kind in _FORMATS.values()])
            lost[item.block.name] = float((size.to(torch.float16) == 0).sum()) / count
            overflow[item.block.name] = float((size > torch.finfo(torch.float16).max).sum()) / count
        if not found:
            return self.not_applicable("the model has no parameters")
        kinds = sorted({str(value.dtype).removeprefix("torch.") for value in probe.model.parameters()})
        return self.reading(
            values,
            coords={"block": tuple(item.block.name for item in found), "precision": tuple(_FORMATS)},
            step=probe.step,
            facts={"lost_float16": lost, "overflow_float16": overflow, "precisions": kinds},
        )
