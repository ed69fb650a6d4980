"""How far the output moves when only the random seed is changed, in eval and in train mode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from attnscope.anatomy.frames import followed_modules, source_of, user_place
from attnscope.lenses import Lens
from attnscope.lenses._movement import main_output, movement
from attnscope.probe import Probe
from attnscope.readings import Reading
from attnscope.undisturbed import undisturbed


@dataclass(frozen=True)
class DropoutSeed(Lens):
    """How far the output moves when only the random seed is changed: exactly zero in eval mode.

    **Measures**: the largest change of the output between two seeds, relative to the largest output, after
    `model.eval()` and after `model.train()`. The facts list every random operation that ran in eval mode, with
    its module, its rate and the user's line (`random_steps`).

    **Reading it**: `eval` is 0 bit for bit. Above zero, dropout (or other noise) is active in evaluation: a
    functional dropout without `training=self.training`, or a module that `eval()` does not reach. `train` is
    0 when nothing is random in training either.

    **Shapes**: (mode,).

    **Cost**: four forward passes.

    **Reference**: Srivastava et al., 2014, JMLR 15 (dropout is off at test time).
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("mode",)

    def measure(self, probe: Probe) -> Reading:
        """Runs each mode with two seeds."""
        evaluated, steps = _moved(probe, train=False)
        trained: float | None = None
        try:
            trained, _ = _moved(probe, train=True)
        except Exception:  # a batch of one example in batch normalisation, say; eval mode is what counts
            trained = None
        if evaluated is None:
            return self.not_applicable("the model's output holds no tensor of numbers")
        return self.reading(
            [evaluated, float("nan") if trained is None else trained],
            coords={"mode": ("eval", "train")},
            step=probe.step,
            facts={"exact": evaluated == 0.0, "random_steps": steps},
        )


def _moved(probe: Probe, train: bool) -> tuple[float | None, list[dict[str, Any]]]:
    """The output's change between two seeds, and the random operations of the first run."""
    outputs, steps = [], []
    for seed in (probe.seed, probe.seed + 1):
        with undisturbed(probe.model, seed=seed, train=train) as model, torch.no_grad():
            with followed_modules(model) as stack, _RandomSteps(stack) as mode:
                outputs.append(main_output(probe.run(model, probe.batch)))
            steps.append(mode.steps)
    first, second = outputs
    if first is None or second is None:
        return None, steps[0]
    return (movement(first, second) if first.shape == second.shape else float("inf")), steps[0]


class _RandomSteps(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Lists the operations that draw random numbers."""

    def __init__(self, stack: list[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.stack = stack
        self.steps: list[dict[str, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            rate = _rate(func, args, kwargs or {})
            if rate != 0.0:
                source = source_of(user_place())
                step = {
                    "op": str(func).removeprefix("aten.").partition(".")[0],
                    "module": self.stack[-1],
                    "rate": rate,
                    "source": None if source is None else str(source),
                    "text": None if source is None else source.text,
                }
                if step not in self.steps:
                    self.steps.append(step)
        return func(*args, **(kwargs or {}))


def _rate(func: Any, args: Any, kwargs: Any) -> float | None:
    """The share that is dropped, where the operation says it; 0.0 for an operation that drops nothing."""
    if any(argument.name == "dropout_p" for argument in func._schema.arguments):  # a fused attention kernel
        names = [argument.name for argument in func._schema.arguments]
        place = names.index("dropout_p")
        return float(kwargs.get("dropout_p", args[place] if len(args) > place else 0.0))
    number = next((item for item in args[1:] if isinstance(item, float)), None)
    if number is None:
        return None
    return 1.0 - number if "bernoulli" in str(func) else number if "dropout" in str(func) else None
