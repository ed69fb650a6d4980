"""Where the first NaN or infinity appears."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from attnscope.anatomy.frames import followed_modules, source_of, user_place
from attnscope.errors import CaseError
from attnscope.lenses import Lens
from attnscope.lenses._batch import tensors
from attnscope.lenses._movement import main_output
from attnscope.probe import Probe
from attnscope.readings import Reading

PLACES = ("parameters", "batch", "forward", "output", "loss", "gradient")
_MAKES_INFINITY = (
    "full",
    "full_like",
    "fill",
    "masked_fill",
    "where",
    "scalar_tensor",
    "new_full",
    "tril",
    "triu",
    "log",
)
_UNINITIALISED = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "resize_", "set_")


@dataclass(frozen=True)
class NonFinite(Lens):
    """How many numbers are NaN or infinite, from the parameters to the gradient: none.

    **Measures**: in `parameters`, `batch`, `output`, `loss` and `gradient` the count of numbers that are not
    finite; in `forward` the count of operations that make a NaN (or an infinity that no mask asked for) from
    sound inputs. The facts name the first such operation (`first`: op, module, the user's line, `nan` or
    `inf`), the parameters and inputs concerned, and whether it reaches the output (`reaches`).

    **Reading it**: zeros. A NaN in `forward` that does not reach the output is usually a row that is masked
    entirely and cleaned afterwards. `gradient` alone: an operation whose derivative is infinite there (a root
    of zero, a norm of zero).

    **Shapes**: (place,).

    **Cost**: one gradient, with every result checked.

    **Reference**: IEEE 754.
    """

    unit: ClassVar[str] = "numbers"
    dims: ClassVar[tuple[str, ...]] = ("place",)

    def measure(self, probe: Probe) -> Reading:
        """Watches one forward pass and looks at its gradient."""
        parameters = {name: _broken(value) for name, value in probe.model.named_parameters()}
        inputs = {path: _broken(value) for path, value in tensors(probe.batch).items()}
        with probe.evaluating() as model:
            with followed_modules(model) as stack, _Watch(stack) as mode:
                output = probe.run(model, probe.batch)
                try:
                    loss: Tensor | None = probe.loss(output, probe.batch)
                except Exception:  # a model without a loss; its forward pass is watched all the same
                    loss = None
            found = main_output(output)
            broken_output = 0 if found is None else _broken(found)
        gradients = _gradients(probe)
        counts = [
            sum(parameters.values()),
            sum(inputs.values()),
            len(mode.found),
            broken_output,
            0 if not isinstance(loss, Tensor) else _broken(loss),
            sum(gradients.values()),
        ]
        return self.reading(
            counts,
            coords={"place": PLACES},
            step=probe.step,
            facts={
                "first": mode.found[0] if mode.found else None,
                "found": mode.found[:10],
                "reaches": bool(broken_output or counts[4]),
                "parameters": [name for name, count in parameters.items() if count],
                "inputs": [path for path, count in inputs.items() if count],
                "gradients": [name for name, count in gradients.items() if count],
            },
        )


def _broken(tensor: Tensor) -> int:
    """How many numbers are not finite; -inf in a batch is a mask."""
    if not tensor.is_floating_point():
        return 0
    return int((tensor.isnan() | (tensor == float("inf"))).sum())


def _gradients(probe: Probe) -> dict[str, int]:
    try:
        found = probe.gradients
    except CaseError:
        return {}
    return {
        name: _broken(torch.nan_to_num(g, nan=float("nan"), neginf=float("inf")))
        for name, g in found.items()
        if g is not None
    }


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Lists the operations that make a NaN, or an infinity that nobody asked for, from sound inputs."""

    def __init__(self, stack: list[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.stack = stack
        self.found: list[dict[str, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).removeprefix("aten.").partition(".")[0]
        before = [_state(value) for value in tree_leaves((args, kwargs or {})) if isinstance(value, Tensor)]
        result = func(*args, **(kwargs or {}))
        if name in _UNINITIALISED or len(self.found) >= 1000:
            return result
        after = [_state(value) for value in tree_leaves(result) if isinstance(value, Tensor)]
        kind = ""
        if any(nan for nan, _ in after) and not any(nan for nan, _ in before):
            kind = "nan"
        elif any(inf for _, inf in after) and not any(inf for _, inf in before):
            plain = name.strip("_")
            kind = "" if plain in _MAKES_INFINITY or plain.startswith("masked") else "inf"
        if kind:
            source = source_of(user_place())
            self.found.append(
                {
                    "op": name,
                    "kind": kind,
                    "module": self.stack[-1],
                    "source": None if source is None else str(source),
                    "text": None if source is None else source.text,
                }
            )
        return result


def _state(value: Tensor) -> tuple[bool, bool]:
    """Whether it holds a NaN, whether it holds +inf (sums of masks reach -inf, and no harm is done)."""
    if not value.is_floating_point() or value.is_meta or value.layout is not torch.strided:
        return False, False
    total = value.detach().sum()  # one pass: NaN and infinities survive a sum
    if bool(torch.isfinite(total)):
        return False, False
    return bool(value.isnan().any()), bool(value.isposinf().any())
