"""How far one step of the user's optimiser moves each block, relative to the block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from attnscope.anatomy.blocks import Block
from attnscope.lenses import STANDARD, Lens
from attnscope.lenses._optimizer import needs_closure, optimizer_on_trial
from attnscope.lenses._parameters import flat
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class UpdateToWeight(Lens):
    """How far one step of the optimiser moves each block, relative to the block's size.

    **Measures**: ||dW|| / ||W|| of one step on trial with the user's optimiser, its state and the first batch
    in train mode; NaN for a block whose weights are all zero. Model and optimiser are put back bit for bit.
    The facts name blocks that get a gradient and do not move (`still`), blocks without a gradient that move
    (`drifting`: weight decay or momentum alone), and the norms of the updates (`update_norm`).

    **Reading it**: about 1e-3 is usual for Adam. 0 with a gradient: the block is left out of the optimiser,
    frozen, or its learning rate is zero. Far above 1e-2 the step is large for the block.

    **Shapes**: (block,).

    **Cost**: one gradient and one step.

    **Reference**: Bottou, 2012 (tricks of the trade): the ratio of update to weight.
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("block",)
    needs: ClassVar[tuple[str, ...]] = ("gradient", "optimizer")
    effort: ClassVar[str] = STANDARD

    def measure(self, probe: Probe) -> Reading:
        """Takes one step and takes it back."""
        optimizer = probe.optimizer
        if optimizer is None:
            return self.not_applicable("no optimiser is given; pass Case(..., optimizer=...)")
        if needs_closure(optimizer):
            return self.not_applicable(f"{type(optimizer).__name__} evaluates the loss by itself in each step")
        blocks = [block for block in probe.anatomy.blocks if block.slices]
        with probe.evaluating(train=True) as model:
            parameters = dict(model.named_parameters())
            blocks = [
                block
                for block in blocks
                if all(parameters[piece.parameter].is_floating_point() for piece in block.slices)
            ]
            before = _numbers(model, blocks)
            with optimizer_on_trial(optimizer):
                optimizer.zero_grad(set_to_none=True)
                model.zero_grad(set_to_none=True)
                loss = probe.loss_of(model, probe.batch)
                if not loss.requires_grad:
                    return self.not_applicable("no parameter is trainable")
                loss.backward()  # type: ignore[no-untyped-call]
                gradients = _gradient_norms(model, blocks)
                optimizer.step()
                after = _numbers(model, blocks)
        sizes = {block.name: float((after[block.name] - before[block.name]).norm()) for block in blocks}
        weights = {name: float(value.norm()) for name, value in before.items()}
        values = [
            sizes[block.name] / weights[block.name] if weights[block.name] > 0 else float("nan") for block in blocks
        ]
        if not blocks or all(value != value for value in values):
            return self.not_applicable("every block's weights are all zero")
        return self.reading(
            values,
            coords={"block": tuple(sizes)},
            step=probe.step,
            facts={
                "update_norm": sizes,
                "gradient_norm": gradients,
                "still": [name for name, size in sizes.items() if size == 0.0 and gradients[name] > 0],
                "drifting": [name for name, size in sizes.items() if size > 0 and gradients[name] == 0.0],
                "frozen": [block.name for block in blocks if not block.trainable],
                "optimizer": type(optimizer).__name__,
            },
        )


def _numbers(model: nn.Module, blocks: list[Block]) -> dict[str, Tensor]:
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    return {block.name: flat(parameters, block).clone() for block in blocks}


def _gradient_norms(model: nn.Module, blocks: list[Block]) -> dict[str, float]:
    gradients = {
        name: torch.zeros_like(value) if value.grad is None else value.grad.detach()
        for name, value in model.named_parameters()
    }
    return {block.name: float(flat(gradients, block).norm()) for block in blocks}
