"""What the loss is given: every cross-entropy of a forward pass and its loss, with the user's line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from attnscope.anatomy.blocks import Source
from attnscope.anatomy.frames import source_of, user_place
from attnscope.probe import Probe

CLASSES = "cross_entropy"
LOG_CLASSES = "nll_loss"
YES_NO = "binary_cross_entropy_with_logits"


@dataclass(frozen=True)
class LossCall:
    """One call of a loss function.

    Attributes:
        op: which: `cross_entropy`, `nll_loss`, `binary_cross_entropy_with_logits`.
        given: what it was given, detached.
        made_by: `softmax`, `log_softmax`, `sigmoid` when the given tensor came straight out of one.
        source: the user's line; None where the default loss makes the call.
        made_at: the user's line of the operation that made it.
    """

    op: str
    given: Tensor
    made_by: str
    source: Source | None
    made_at: Source | None = None

    @property
    def by_class(self) -> Tensor:
        """The given numbers as [row, class], in float64."""
        given = self.given.double()
        if given.ndim > 2:
            given = given.movedim(1, -1).flatten(0, -2)
        return given.reshape(-1, given.shape[-1]) if given.ndim else given.reshape(1, 1)


def loss_calls(probe: Probe, batch: Any = None, *, train: bool = False) -> list[LossCall]:
    """Every such call between the batch and its loss, in eval or train mode, in the order in which they are made."""
    with probe.evaluating(train=train) as model, torch.no_grad(), _Calls() as mode:
        probe.loss_of(model, probe.batch if batch is None else batch)
    found: list[LossCall] = mode.found
    return found


class _Calls(TorchFunctionMode):
    """Watches torch's loss functions, and remembers what softmaxes gave."""

    LOSSES: ClassVar[dict[Any, str]] = {
        functional.cross_entropy: CLASSES,
        functional.nll_loss: LOG_CLASSES,
        functional.binary_cross_entropy_with_logits: YES_NO,
    }
    RESHAPES: ClassVar[tuple[str, ...]] = (
        "view", "reshape", "flatten", "squeeze", "contiguous", "transpose", "permute",
    )
    MAKERS: ClassVar[tuple[str, ...]] = ("softmax", "log_softmax", "sigmoid", "logsigmoid")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[LossCall] = []
        self.made: dict[int, tuple[Tensor, str, Source | None]] = {}
        self.inside = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        op = self.LOSSES.get(func)
        if op is None or self.inside:
            result = func(*args, **kwargs)
            name = getattr(func, "__name__", "").strip("_")
            if isinstance(result, Tensor) and not self.inside:
                self._remember(name, args, result)
            return result
        self._found(op, args[0] if args else kwargs["input"])
        self.inside = True  # cross_entropy calls log_softmax and nll_loss itself
        try:
            return func(*args, **kwargs)
        finally:
            self.inside = False

    def _remember(self, name: str, args: Any, result: Tensor) -> None:
        """What a softmax made, also under another shape."""
        before = self.made.get(id(args[0])) if args else None
        if name == "log_softmax" and before is not None and before[1] == "softmax":
            # What a cross-entropy written by hand does first: a softmax of a softmax.
            self._found(CLASSES, args[0])
        if name in self.MAKERS:
            self.made[id(result)] = (result, name, source_of(user_place(3)))
        elif name in self.RESHAPES and before is not None:
            self.made[id(result)] = (result, *before[1:])

    def _found(self, op: str, given: Tensor) -> None:
        _, made_by, made_at = self.made.get(id(given), (given, "", None))
        self.found.append(LossCall(op, given.detach(), made_by, source_of(user_place(3)), made_at))
