"""How far the model's function moves when the residual path around an attention is removed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from attnscope.anatomy.observe import AttentionTensors
from attnscope.anatomy.replay import replay
from attnscope.lenses import STANDARD, Lens
from attnscope.lenses._ablation import effect_of, untouched
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class ResidualAblation(Lens):
    """How far the output moves when what enters an attention is no longer added to what leaves it.

    **Measures**: the change of the output relative to its largest entry, with the residual sum replaced by the
    attention's branch alone, per attention; NaN where the attention has no residual sum. The facts hold the
    change of the loss (`loss_change`).

    **Reading it**: a trained model relies on its residual path: the output changes by its own size. Near zero:
    the path carries nothing.

    **Shapes**: (layer,).

    **Cost**: one watched forward pass per attention.

    **Reference**: Veit et al., 2016, arXiv:1605.06431 (lesions of residual networks).
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("layer",)
    needs: ClassVar[tuple[str, ...]] = ("pattern",)
    effort: ClassVar[str] = STANDARD

    def measure(self, probe: Probe) -> Reading:
        """Removes one residual sum after the other."""
        attentions = probe.anatomy.attentions
        values = np.full(len(attentions), np.nan)
        changes: dict[str, float] = {}
        with probe.evaluating() as model, torch.no_grad():
            before = untouched(probe, model)
            if before.output is None:
                return self.not_applicable("the model's output holds no tensor of numbers")
            for index, attention in enumerate(attentions):
                step = attention.residual_step
                if step is None or step.index is None:
                    continue
                change = {step.index: _branch_of(probe.observation.attentions[index])}

                def run(change: dict[int, Callable[..., Tensor]] = change) -> Any:
                    return replay(model, probe.batch, forward=probe.forward, replace=change)

                values[index], of_loss = effect_of(probe, model, before, run)
                if of_loss is not None:
                    changes[attention.name] = of_loss
        if np.isnan(values).all():
            return self.not_applicable("no attention has a residual sum")
        return self.reading(
            values,
            coords={"layer": tuple(attention.layer for attention in attentions)},
            step=probe.step,
            facts={"loss": before.loss, "loss_change": changes},
        )


def _branch_of(observed: AttentionTensors) -> Callable[[Tensor, tuple[Any, ...]], Tensor]:
    """Of the two summands, the attention's own: the one that is nearer to what its projection gave."""

    def branch(output: Tensor, args: tuple[Any, ...]) -> Tensor:
        summands = [item for item in args if isinstance(item, Tensor) and item.shape == output.shape]
        if len(summands) != 2 or observed.output is None or observed.output.numel() != output.numel():
            return output
        own = observed.output.to(output)
        if own.shape != output.shape:
            own = own.reshape(output.shape) if own.ndim != output.ndim else own.transpose(0, 1)
        return min(summands, key=lambda item: float((item - own).norm()))

    return branch
