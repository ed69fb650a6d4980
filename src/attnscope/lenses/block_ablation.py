"""How far the model's function moves when a block is set to zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from attnscope.lenses import STANDARD, Lens
from attnscope.lenses._ablation import Untouched, effect_of, untouched
from attnscope.lenses._edits import edited
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class BlockAblation(Lens):
    """How far the output moves when one block's numbers are all set to zero.

    **Measures**: the change of the output relative to its largest entry, per block. The facts hold the change
    of the loss where there is one (`loss_change`), and the blocks without any effect (`no_effect`).

    **Reading it**: 0 exactly: the function does not use the block as it stands (it may be zero already). A
    negative change of the loss: the model does better without the block.

    **Shapes**: (block,).

    **Cost**: one forward pass per block.

    **Reference**: Michel et al., 2019, arXiv:1905.10650 (ablation of heads).
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("block",)
    effort: ClassVar[str] = STANDARD

    def measure(self, probe: Probe) -> Reading:
        """Sets one block after the other to zero."""
        blocks = [block for block in probe.anatomy.blocks if block.slices]
        if not blocks:
            return self.not_applicable("the model has no parameters")
        values, changes = [], {}
        with probe.evaluating() as model, torch.no_grad():
            before: Untouched = untouched(probe, model)
            if before.output is None:
                return self.not_applicable("the model's output holds no tensor of numbers")
            for block in blocks:
                with edited(model, block, torch.zeros_like):
                    moved, change = effect_of(probe, model, before)
                values.append(moved)
                if change is not None:
                    changes[block.name] = change
        names = tuple(block.name for block in blocks)
        return self.reading(
            values,
            coords={"block": names},
            step=probe.step,
            facts={
                "loss": before.loss,
                "loss_change": changes,
                "no_effect": [name for name, value in zip(names, values, strict=True) if value == 0.0],
            },
        )
