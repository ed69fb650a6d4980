"""The norm of each block's gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.lenses import Lens
from attnscope.lenses._block_gradients import gradients_by_block
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class GradientNorm(Lens):
    """The norm of each block's gradient on the first batch, in eval mode.

    **Measures**: ||dL/dW_block||. Frozen blocks are included as if they were trained. The facts list blocks
    that no gradient path leads to (`unreached`).

    **Reading it**: compare a block with its own history, or with the same role in other layers; the number
    itself depends on the scale of the weights. Exact zeros are explained by `dead_gradient`.

    **Shapes**: (block,).

    **Cost**: one gradient.

    **Reference**: none; see `gradient_to_weight` for a form that is free of the scale.
    """

    unit: ClassVar[str] = "loss/parameter"
    dims: ClassVar[tuple[str, ...]] = ("block",)
    needs: ClassVar[tuple[str, ...]] = ("gradient",)

    def measure(self, probe: Probe) -> Reading:
        """One norm per block."""
        found = gradients_by_block(probe)
        if not found:
            return self.not_applicable("the model has no parameters")
        return self.reading(
            [float(item.gradient.norm()) for item in found],
            coords={"block": tuple(item.block.name for item in found)},
            step=probe.step,
            facts={"unreached": [item.block.name for item in found if not item.reached]},
        )
