"""Whether two identical evaluations repeat exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attnscope.errors import CaseError
from attnscope.lenses import Lens
from attnscope.lenses._movement import main_output, movement
from attnscope.probe import Probe
from attnscope.readings import Reading
from attnscope.undisturbed import seed_everything


@dataclass(frozen=True)
class Determinism(Lens):
    """How far output, loss and gradient move between two identical evaluations: exactly zero.

    **Measures**: two runs in eval mode, one after the other, with the same batch and the same seed: the largest
    change of the output, of the loss and of the gradient, each relative to its largest entry. The facts name
    the tensors of the model that an evaluation changes (`changed_state`), the gradients that moved
    (`moved_gradients`), and say whether the output repeats when the model's state is put back in between
    (`repeats_from_same_state`: then the model remembers something).

    **Reading it**: 0 bit for bit. Otherwise: a cache or a counter that is carried over, a clock, a random
    generator of its own, or a kernel that adds in no fixed order. Curvature would be noise.

    **Shapes**: (quantity,) with quantities `output`, `loss`, `gradient`; NaN where there is no loss.

    **Cost**: two gradients and two forward passes.

    **Reference**: an identity; PyTorch's notes on reproducibility.
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("quantity",)

    def measure(self, probe: Probe) -> Reading:
        """Runs twice without putting the state back in between, then twice with it."""
        with probe.evaluating() as model:
            before = _state(model)
            runs = []
            for _ in range(2):
                seed_everything(probe.seed)
                runs.append(_run(probe, model))
            after = _state(model)
            changed = [name for name, value in before.items() if name in after and _differ(value, after[name])]
        first, second = (main_output(probe.output()) for _ in range(2))
        output = _moved(runs[0][0], runs[1][0])
        loss = _moved(runs[0][1], runs[1][1])
        moved = {name: _moved(gradient, runs[1][2].get(name)) for name, gradient in runs[0][2].items()}
        gradient = max(moved.values(), default=float("nan"))
        return self.reading(
            [output, loss, gradient],
            coords={"quantity": ("output", "loss", "gradient")},
            step=probe.step,
            facts={
                "exact": all(value == 0.0 for value in (output, loss, gradient) if value == value),
                "repeats_from_same_state": _moved(first, second) == 0.0,
                "changed_state": changed,
                "moved_gradients": [name for name, value in moved.items() if value > 0][:20],
            },
        )


def _run(probe: Probe, model: nn.Module) -> tuple[Tensor | None, Tensor | None, dict[str, Tensor]]:
    """Output, loss and gradients; the latter two are missing when there is no loss to differentiate."""
    output = probe.run(model, probe.batch)
    try:
        loss = probe.loss(output, probe.batch)
    except Exception:  # no loss: the output is compared all the same
        return _kept(main_output(output)), None, {}
    found: dict[str, Tensor] = {}
    named = {name: value for name, value in model.named_parameters() if value.requires_grad}
    if isinstance(loss, Tensor) and loss.requires_grad and loss.numel() == 1 and named:
        try:
            gradients = torch.autograd.grad(loss.reshape(()), list(named.values()), allow_unused=True)
        except RuntimeError as error:
            raise CaseError(f"the loss could not be differentiated: {error}") from error
        found = {name: gradient for name, gradient in zip(named, gradients, strict=True) if gradient is not None}
    return _kept(main_output(output)), _kept(loss if isinstance(loss, Tensor) else None), found


def _kept(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().clone()


def _moved(first: Tensor | None, second: Tensor | None) -> float:
    if first is None or second is None:
        return float("nan")
    if first.shape != second.shape:
        return float("inf")
    return movement(first, second)


def _state(model: nn.Module) -> dict[str, Tensor]:
    named: dict[str, Any] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for path, module in model.named_modules():
        for name, value in module.__dict__.items():
            if isinstance(value, Tensor):
                named[f"{path}.{name}".lstrip(".")] = value
    return {name: value.detach().clone() for name, value in named.items()}


def _differ(old: Tensor, new: Tensor) -> bool:
    return old.shape != new.shape or (not old.is_complex() and movement(old, new) != 0.0)
