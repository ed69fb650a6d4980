"""Which token of the input the loss wants predicted at each position: the same, the next, or another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attnscope.lenses import STANDARD, Lens
from attnscope.lenses._batch import tensors, with_tensors
from attnscope.lenses._labels import labels_path
from attnscope.lenses._loss_calls import CLASSES, loss_calls
from attnscope.lenses._movement import main_output
from attnscope.lenses._sequence import Sequence, predicted_sequence
from attnscope.probe import Probe
from attnscope.readings import Reading

_SURE = 20.0  # a logit that leaves exp(-20) to every other class
_WANTED = 0.5  # of the loss of a uniform guess: below it, most positions want that token


@dataclass(frozen=True)
class LabelAlignment(Lens):
    """The loss when the logits name the token a given number of places ahead: least at 1 in a language model.

    **Measures**: the user's loss with the model's logits replaced by sure predictions of the input token at
    position + offset, for offsets -1 to 2. The facts hold the loss of a uniform guess (`uniform`), the offset
    of the least loss (`best`) and `language_model`: whether that loss is below half of the uniform one, so
    that the targets are tokens of the input at all; and the user's line of the cross-entropy (`source`).

    **Reading it**: the least loss at 1: the next token is predicted. At 0: the target is the input itself,
    which a model solves by copying (right for an auto-encoder only). At 2: the labels are shifted twice.

    **Shapes**: (offset,).

    **Cost**: one forward pass per offset.

    **Reference**: an intervention on the loss.
    """

    offsets: tuple[int, ...] = (-1, 0, 1, 2)

    unit: ClassVar[str] = "loss"
    dims: ClassVar[tuple[str, ...]] = ("offset",)
    needs: ClassVar[tuple[str, ...]] = ("loss",)
    effort: ClassVar[str] = STANDARD

    def measure(self, probe: Probe) -> Reading:
        """Replaces the logits and asks the loss."""
        sequence = predicted_sequence(probe)
        if sequence is None or sequence.use != "tokens" or sequence.real.ndim != 2:
            return self.not_applicable("the batch holds no flat sequence of tokens")
        if sequence.path == labels_path(probe.batch):
            return self.not_applicable("the decoder's input is made from the labels by the model itself")
        with probe.evaluating() as model, torch.no_grad():
            logits = main_output(probe.run(model, probe.batch))
            ids = sequence.tensor
            if logits is None or logits.ndim != ids.ndim + 1 or logits.shape[:-1] != ids.shape:
                return self.not_applicable("the model gives no logits for every token of the input")
            if logits.shape[-1] <= int(ids.max()):
                return self.not_applicable("the model's classes are not the tokens of its input")
            way = _way(probe, model, logits)
            if way is None:
                return self.not_applicable("the loss is computed from something else than the model's logits")
            uniform = way(torch.zeros_like(logits))
            losses = [way(_sure(sequence, logits, offset)) for offset in self.offsets]
        best = min(range(len(losses)), key=lambda index: losses[index])
        place = next((call.source for call in reversed(loss_calls(probe)) if call.op == CLASSES), None)
        return self.reading(
            losses,
            coords={"offset": self.offsets},
            step=probe.step,
            facts={
                "uniform": uniform,
                "best": self.offsets[best],
                "language_model": losses[best] < _WANTED * uniform,
                "input": sequence.path,
                "source": None if place is None else str(place),
                "text": None if place is None else place.text,
            },
        )


def _sure(sequence: Sequence, logits: Tensor, offset: int) -> Tensor:
    """Logits that name the input token `offset` places ahead, and nothing where there is none."""
    axis = sequence.position_axis if sequence.batch_axis is not None else 0
    ids = sequence.tensor
    length = ids.shape[axis]
    made = torch.zeros_like(logits)
    start, stop = max(0, -offset), min(length, length - offset)
    wanted = ids.narrow(axis, start + offset, stop - start).long()[..., None]
    made.narrow(axis, start, stop - start).scatter_(-1, wanted, _SURE)
    return made


def _way(probe: Probe, model: nn.Module, logits: Tensor) -> Callable[[Tensor], float] | None:
    """How the loss is asked about other logits: inside the model where they are made, else in its output."""
    for module in _makers(probe, model, logits):

        def inside(other: Tensor, module: nn.Module = module) -> float:
            with _replaced(module, other):
                return float(probe.loss_of(model, probe.batch))

        if _answers(inside, logits):
            return inside

    def outside(other: Tensor) -> float:
        output = probe.run(model, probe.batch)
        path = next((path for path, value in tensors(output).items() if value is main_output(output)), None)
        changed = other if path == "" else output if path is None else with_tensors(output, {path: other})
        return float(probe.loss(changed, probe.batch))

    return outside if _answers(outside, logits) else None


def _answers(way: Callable[[Tensor], float], logits: Tensor) -> bool:
    """Whether the loss depends on what is put there."""
    try:
        return way(torch.zeros_like(logits)) != way(logits + torch.arange(logits.shape[-1]).to(logits))
    except Exception:  # this way does not lead to the loss
        return False


def _makers(probe: Probe, model: nn.Module, logits: Tensor) -> list[nn.Module]:
    """Modules whose output is the logits, innermost first."""
    found: list[nn.Module] = []

    def watch(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.shape == logits.shape and torch.equal(output, logits):
            found.append(module)

    handles = [module.register_forward_hook(watch) for module in model.modules() if module is not model]
    try:
        probe.run(model, probe.batch)
    finally:
        for handle in handles:
            handle.remove()
    return found


class _replaced:
    """While active, the module gives `other`."""

    def __init__(self, module: nn.Module, other: Tensor) -> None:
        self.module, self.other = module, other

    def __enter__(self) -> None:
        self.handle = self.module.register_forward_hook(lambda module, args, output: self.other.to(output))

    def __exit__(self, *error: object) -> None:
        self.handle.remove()
