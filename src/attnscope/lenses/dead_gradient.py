"""Blocks whose gradient is exactly zero, and whether the model depends on them all the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from attnscope.anatomy.blocks import Block
from attnscope.anatomy.frames import followed_modules, source_of, user_place
from attnscope.lenses import STANDARD, Lens
from attnscope.lenses._block_gradients import BlockGradient, gradients_by_block
from attnscope.lenses._edits import edited
from attnscope.lenses._movement import movement, tolerance
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class DeadGradient(Lens):
    """Blocks whose gradient is exactly zero: cut off, without effect, or unused.

    **Measures**: for every block whose gradient is exactly zero, how far the loss moves, relative to itself,
    when the block's numbers are changed at random; 0 for blocks with a gradient. `state`
    in the facts says per dead block: `cut` (the loss depends on it and no gradient arrives: the graph is cut),
    `no effect` (the graph reaches it but the loss does not depend on it: something behind it is zero or
    saturated), `unused` (no path, no effect). `cuts` lists operations that took something differentiable and
    gave something that is not, with the user's line.

    **Reading it**: zeros, and no `dead` blocks, in a healthy model. A `cut` block cannot learn. `no effect`
    blocks stand before a block that silences them; look there.

    **Shapes**: (block,).

    **Cost**: one gradient, and one forward pass per dead block.

    **Reference**: an identity: a function that depends smoothly on a block has a gradient there.
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("block",)
    needs: ClassVar[tuple[str, ...]] = ("gradient",)
    effort: ClassVar[str] = STANDARD

    def measure(self, probe: Probe) -> Reading:
        """Perturbs every block without a gradient and looks at the loss."""
        found = gradients_by_block(probe)
        if not found:
            return self.not_applicable("the model has no parameters")
        dead = [item for item in found if item.gradient.numel() and not bool(item.gradient.any())]
        values = dict.fromkeys((item.block.name for item in found), 0.0)
        state: dict[str, str] = {}
        cuts: list[dict[str, Any]] = []
        if dead:
            cuts = _cuts(probe)
            with probe.evaluating() as model, torch.no_grad():
                before = _loss(probe, model)
                bound = tolerance(before.dtype, 8)
                for item in dead:
                    # A block on the graph may lie where the function is flat (a silent ReLU); only a small
                    # step tells that from a cut. Without a path every dependence is a cut.
                    moved = _moved(probe, model, item.block, before, 0.01 if item.reached else 1.0)
                    values[item.block.name] = moved
                    state[item.block.name] = _state(item, moved, bound)
        return self.reading(
            list(values.values()),
            coords={"block": tuple(values)},
            step=probe.step,
            facts={"dead": list(state), "state": state, "cuts": cuts},
        )


def _state(item: BlockGradient, moved: float, bound: float) -> str:
    if moved > bound:
        return "cut"
    return "no effect" if item.reached else "unused"


def _loss(probe: Probe, model: nn.Module) -> Tensor:
    return probe.loss_of(model, probe.batch).detach().reshape(1)


def _moved(probe: Probe, model: nn.Module, block: Block, before: Tensor, step: float) -> float:
    """How far the loss moves when the block's numbers are changed by `step` times their own size."""
    generator = torch.Generator().manual_seed(probe.seed)

    def change(piece: Tensor) -> Tensor:
        spread = piece.float().std() if piece.numel() > 1 else piece.float().abs().mean()
        size = step * (float(torch.nan_to_num(spread)) or 0.02)
        return piece + (size * torch.randn(piece.shape, generator=generator)).to(piece)

    with edited(model, block, change):
        return movement(before, _loss(probe, model))


def _cuts(probe: Probe) -> list[dict[str, Any]]:
    """Operations whose floating input asks for a gradient and whose floating output does not."""
    with probe.evaluating() as model:
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.requires_grad_(True)
        with followed_modules(model) as stack, _Cuts(stack) as mode:
            probe.loss_of(model, probe.batch)
    found: list[dict[str, Any]] = mode.found
    return found


class _Cuts(TorchFunctionMode):
    """Watches calls of torch's functions from outside autograd."""

    def __init__(self, stack: list[str]) -> None:
        super().__init__()
        self.stack = stack
        self.found: list[dict[str, Any]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if _differentiable(result) is False and any(_differentiable(item) for item in args):
            source = source_of(user_place())
            cut = {
                "op": getattr(func, "__name__", str(func)).strip("_"),
                "module": self.stack[-1],
                "source": None if source is None else str(source),
                "text": None if source is None else source.text,
            }
            if cut not in self.found and len(self.found) < 50:
                self.found.append(cut)
        return result


def _differentiable(value: Any) -> bool | None:
    """Whether a floating tensor asks for a gradient; None for anything else."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return None
    return value.requires_grad
