"""How often weight decay alone would have divided each block by e since training began."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from attnscope.lenses import Lens
from attnscope.lenses._optimizer import groups_by_parameter
from attnscope.probe import Probe
from attnscope.readings import Reading

_COUPLED = (torch.optim.SGD,)
_ADAPTIVE = (torch.optim.Adam, torch.optim.NAdam, torch.optim.RAdam, torch.optim.RMSprop, torch.optim.Adagrad)


@dataclass(frozen=True)
class DecayFolds(Lens):
    """How often weight decay alone would have divided each block by e since training began.

    **Measures** rate x decay x steps (unit 1), for decay that is decoupled (AdamW) or that gradient descent adds to
    the gradient (SGD): a weight without gradient is left at exp(-folds) of its start, a product of two weights,
    such as a head's W_Q^T W_K, at exp(-2 folds). The rate is today's; a schedule makes it an estimate.

    **Reading it** below 0.5 in fine-tuning, 1 to 5 over a long pre-training, where gradients hold against it. Many
    folds beside weights that have vanished, or that have lost their rank, are decay that wins.

    **Shapes** [block]; NaN for blocks that the optimiser does not hold, or whose decay an adaptive rate divides
    (Adam with weight_decay: the decay is a gradient there and has no such law). Facts: `decay` and `rate`: block ->
    number; `adaptive`: blocks of that last kind; `steps`.

    **Cost** none.

    **Reference** Loshchilov & Hutter 2019, Decoupled Weight Decay Regularization, arXiv:1711.05101; Kobayashi et
    al. 2024, Weight decay induces low-rank attention layers, arXiv:2410.23819.
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("block",)
    needs: ClassVar[tuple[str, ...]] = ("optimizer",)

    def measure(self, probe: Probe) -> Reading:
        """Reads the optimiser's groups and its count of steps."""
        optimizer = probe.optimizer
        if optimizer is None:
            return self.not_applicable("no optimiser is given; pass Case(..., optimizer=...)")
        steps = _steps(probe)
        if steps is None:
            return self.not_applicable(f"the number of steps is not known: {type(optimizer).__name__} keeps no count")
        groups = groups_by_parameter(probe)
        names = tuple(block.name for block in probe.anatomy.blocks)
        values: list[float] = []
        rates: dict[str, float] = {}
        decays: dict[str, float] = {}
        adaptive: list[str] = []
        for block in probe.anatomy.blocks:
            held = [groups[piece.parameter] for piece in block.slices if piece.parameter in groups]
            value = float("nan")
            if held:
                strongest = max(held, key=lambda group: float(group.get("weight_decay") or 0))
                rates[block.name] = float(strongest.get("lr") or 0)
                decays[block.name] = float(strongest.get("weight_decay") or 0)
                if _divided(optimizer, strongest):
                    adaptive.append(block.name)
                elif _known(optimizer):
                    value = rates[block.name] * decays[block.name] * steps
            values.append(value)
        if not decays or not _known(optimizer):
            return self.not_applicable(f"the decay of {type(optimizer).__name__} is not known")
        if all(value != value for value in values):
            return self.not_applicable("an adaptive rate divides the decay, which then has no law of its own")
        return self.reading(
            values,
            coords={"block": names},
            step=probe.step,
            facts={"decay": decays, "rate": rates, "adaptive": adaptive, "steps": steps},
        )


def _steps(probe: Probe) -> int | None:
    """Steps taken: the probe's own, else the largest count that the optimiser keeps."""
    if probe.step is not None:
        return probe.step
    counts = [state["step"] for state in (probe.optimizer.state.values() if probe.optimizer else ()) if "step" in state]
    return int(max(float(count) for count in counts)) if counts else None


def _divided(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> bool:
    """Whether an adaptive rate divides the decay: it is added to the gradient, and decoupling is off."""
    adaptive = isinstance(optimizer, _ADAPTIVE) and not isinstance(optimizer, torch.optim.AdamW)
    return adaptive and bool(group.get("weight_decay")) and not group.get("decoupled_weight_decay", False)


def _known(optimizer: torch.optim.Optimizer) -> bool:
    return isinstance(optimizer, (*_COUPLED, *_ADAPTIVE, torch.optim.AdamW))
