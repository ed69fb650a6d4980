"""How far each block is from where training began, in steps of its optimiser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from attnscope.anatomy.blocks import Block
from attnscope.lenses import Lens
from attnscope.lenses._optimizer import groups_by_parameter
from attnscope.lenses._parameters import named, part
from attnscope.probe import Probe
from attnscope.readings import Reading

_ABOVE_EPSILON = 100.0  # below it, epsilon shortens the steps of an entry


@dataclass(frozen=True)
class MovementInSteps(Lens):
    """How far each block is from where training began, in steps of its optimiser (Adam and its kin).

    **Measures**: the root mean square of (weight - weight at the start) / learning rate, over the entries whose second
    moment is well above the optimiser's epsilon; NaN where there are none, or no learning rate. A step of Adam moves an
    entry by at most about one learning rate. The facts hold the steps counted for each block (`steps`) and the share
    of its entries that were compared (`share`).

    **Reading it**: sqrt(steps) for gradients that are noise, up to the number of steps for gradients that agree. A
    learning rate that has been lowered since makes it larger.

    **Shapes**: (block,).

    **Cost**: none.

    **Reference**: Kingma and Ba, 2015, arXiv:1412.6980, section 2.1 (the size of a step).
    """

    unit: ClassVar[str] = "learning rates"
    dims: ClassVar[tuple[str, ...]] = ("block",)
    needs: ClassVar[tuple[str, ...]] = ("optimizer", "weights")

    def measure(self, probe: Probe) -> Reading:
        """Compares weights, start and moments."""
        if probe.optimizer is None:
            return self.not_applicable("no optimiser is given; pass Case(..., optimizer=...)")
        if probe.start is None:
            return self.not_applicable("the weights before training are not known; pass Case(..., start=...)")
        states: Any = probe.optimizer.state
        own = {name: states[value] for name, value in probe.model.named_parameters() if value in states}
        moments = {
            name: state
            for name, state in own.items()
            if isinstance(state, dict) and "step" in state and isinstance(state.get("exp_avg_sq"), Tensor)
        }
        if not moments:
            return self.not_applicable("the optimiser keeps no second moments of the model's parameters")
        now, groups = named(probe.model), groups_by_parameter(probe)
        found = {
            block.name: _moved(block, now, probe.start, moments, groups) for block in probe.anatomy.blocks
        }
        values = [moved for moved, _ in found.values()]
        if all(np.isnan(value) for value in values):
            return self.not_applicable("no block has moments above the optimiser's epsilon and a learning rate")
        steps = {
            block.name: max(
                (int(moments[piece.parameter]["step"]) for piece in block.slices if piece.parameter in moments),
                default=0,
            )
            for block in probe.anatomy.blocks
        }
        return self.reading(
            values,
            coords={"block": tuple(found)},
            step=probe.step,
            facts={"steps": steps, "share": {name: share for name, (_, share) in found.items()}},
        )


def _moved(
    block: Block, now: dict[str, Tensor], start: Any, moments: dict[str, Any], groups: dict[str, Any]
) -> tuple[float, float]:
    """The movement in learning rates, and the share of entries it was measured over."""
    total, count, size = 0.0, 0, 0
    for piece in block.slices:
        name = piece.parameter
        if name not in moments or name not in start or name not in groups:
            continue
        rate, state = float(groups[name].get("lr", 0.0)), moments[name]
        second = state["exp_avg_sq"]
        if rate <= 0 or second.shape != now[name].shape or start[name].shape != now[name].shape:
            continue
        here, there = (part({name: values[name].detach()}, piece).double() for values in (now, start))
        size += here.numel()
        used = _used(part({name: second.detach()}, piece).double(), groups[name], int(state["step"]))
        total += float(((here - there) / rate).square()[used].sum())
        count += int(used.sum())
    return ((total / count) ** 0.5, count / size) if count else (float("nan"), 0.0)


def _used(second: Tensor, group: dict[str, Any], step: int) -> Tensor:
    """The entries whose steps the epsilon does not shorten."""
    betas = group.get("betas", (0.9, 0.999))
    correction = 1 - float(betas[1]) ** max(step, 1)
    sizes = (second / max(correction, 1e-12)).sqrt()
    return torch.as_tensor(sizes > _ABOVE_EPSILON * float(group.get("eps", 1e-8)))
