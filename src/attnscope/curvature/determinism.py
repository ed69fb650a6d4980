"""Whether loss and gradient repeat exactly, and what is random when they do not."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from attnscope.errors import NotDeterministicError

_TORCH = str(Path(torch.__file__).parent)
_OWN = str(Path(__file__).parent)
# Allocations hold whatever was in memory; they are filled before they are used.
_UNFILLED = ("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided")


Evaluation = tuple[Tensor, dict[str, Tensor | None]]  # the loss, and parameter name -> gradient


@dataclass(frozen=True)
class _Operation:
    name: str
    source: str
    random: bool
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]

    def __str__(self) -> str:
        return f"{self.name} at {self.source}" if self.source else self.name


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every operation; with `values`, also a fingerprint of what enters and leaves it."""

    def __init__(self, values: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.values = values
        self.operations: list[_Operation] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        inputs = _fingerprints((args, kwargs)) if self.values else ()
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        random = torch.Tag.nondeterministic_seeded in func.tags
        if (self.values and name not in _UNFILLED) or random:
            outputs = _fingerprints(result) if self.values else ()
            self.operations.append(_Operation(name, _user_line(), random, inputs, outputs))
        return result


def _fingerprints(nest: Any) -> tuple[Any, ...]:
    found: list[Any] = []

    def visit(value: Any) -> None:
        if isinstance(value, Tensor):
            found.append(_fingerprint(value))
        elif isinstance(value, list | tuple):
            for item in value:
                visit(item)
        elif isinstance(value, dict):
            for item in value.values():
                visit(item)
        elif isinstance(value, int | float | bool | str):
            found.append(value)

    visit(nest)
    return tuple(found)


def _fingerprint(tensor: Tensor) -> Any:
    if tensor.is_meta or tensor.numel() == 0:
        return tuple(tensor.shape)
    plain = tensor.detach().contiguous().reshape(-1).view(torch.uint8) if not tensor.is_complex() else tensor
    return tuple(tensor.shape), hash(plain.cpu().numpy().tobytes())


def _user_line() -> str:
    frame = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith((_TORCH, _OWN, "<")) and not file.endswith("contextlib.py"):
            return f"{Path(file).name}:{frame.f_lineno} ({frame.f_code.co_name})"
        if frame.f_back is None:
            break
        frame = frame.f_back
    return ""


def random_operations(run: Callable[[], object]) -> tuple[str, ...]:
    """The operations of `run` that draw random numbers, with the user's lines, once each."""
    with _Watch(values=False) as watch:
        run()
    return tuple(dict.fromkeys(str(operation) for operation in watch.operations if operation.random))


def first_difference(run: Callable[[], object]) -> str:
    """Runs twice and names the first operation that gives another answer to the same question."""
    with _Watch(values=True) as first:
        run()
    with _Watch(values=True) as second:
        run()
    for one, other in zip(first.operations, second.operations, strict=False):
        if one.name != other.name:
            return f"the first run does {one}, the second {other}: the code takes another path"
        if one.outputs != other.outputs:
            if one.inputs != other.inputs:
                return f"{one} is given other numbers: they come from outside PyTorch's operations"
            return f"{one} gives another result for the same input"
    if len(first.operations) != len(second.operations):
        return "one run does more operations than the other: the code takes another path"
    return "the forward pass repeats exactly; the difference arises in the backward pass"


def check_repeats(
    evaluate: Callable[[], Evaluation], run: Callable[[], object], where: str
) -> Evaluation:
    """Evaluates loss and gradient twice, and compares them bit for bit.

    Args:
        evaluate: loss and gradients, with all randomness seeded anew.
        run: the forward pass alone, for the search of the culprit.
        where: what is evaluated, for the message.

    Returns:
        the loss and the gradients.

    Raises:
        NotDeterministicError: names the operation and the user's line where the two runs part.
    """
    loss, gradients = evaluate()
    again, gradients_again = evaluate()
    same_loss = _identical(loss, again)
    differ = [name for name in gradients if not _identical(gradients[name], gradients_again[name])]
    if same_loss and not differ:
        return again, gradients_again
    what = f"loss {float(loss):.9g}, then {float(again):.9g}" if not same_loss else (
        f"same loss, but the gradients of {len(differ)} parameters differ, {differ[0]} first"
    )
    raise NotDeterministicError(
        f"two identical evaluations of {where} differ ({what}), in eval mode and with every random "
        f"generator of torch, numpy and Python seeded. {first_difference(run)}. Curvature would be noise: "
        "make it depend on its input only, or pass check=False"
    )


def _identical(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return torch.equal(one, other) or bool(
        torch.equal(one.isnan(), other.isnan()) and torch.equal(one.nan_to_num(), other.nan_to_num())
    )
