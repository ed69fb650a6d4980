"""The norm of each block's gradient relative to that of its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.lenses import Lens
from attnscope.lenses._block_gradients import gradients_by_block
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class GradientToWeight(Lens):
    """The norm of each block's gradient relative to the norm of its weights.

    **Measures**: ||dL/dW|| / ||W||, NaN for a block whose weights are all zero. The facts hold the product
    ||W|| ||dL/dW|| per block (`scale_free`): the change of the loss per relative change of the block, which no
    exchange of scale between two blocks alters.

    **Reading it**: blocks of one role are within a factor of ten of each other in a healthy model. A block far
    above the rest learns faster than the rest; far below, it hardly learns.

    **Shapes**: (block,).

    **Cost**: one gradient.

    **Reference**: You et al., 2017, arXiv:1708.03888 (the ratio that LARS balances).
    """

    unit: ClassVar[str] = "loss/parameter^2"
    dims: ClassVar[tuple[str, ...]] = ("block",)
    needs: ClassVar[tuple[str, ...]] = ("gradient", "weights")

    def measure(self, probe: Probe) -> Reading:
        """One ratio per block."""
        found = gradients_by_block(probe)
        if not found:
            return self.not_applicable("the model has no parameters")
        norms = [(float(item.gradient.norm()), float(item.weight.norm())) for item in found]
        values = [gradient / weight if weight > 0 else float("nan") for gradient, weight in norms]
        names = tuple(item.block.name for item in found)
        if all(value != value for value in values):
            return self.not_applicable("every block's weights are all zero")
        return self.reading(
            values,
            coords={"block": names},
            step=probe.step,
            facts={
                "scale_free": {name: gradient * weight for name, (gradient, weight) in zip(names, norms, strict=True)}
            },
        )
