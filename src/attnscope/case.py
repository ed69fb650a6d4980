"""Case: a model, its data, its loss and what its author expects of it: all that a diagnosis needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from attnscope.errors import CaseError

Batch = Any
Forward = Callable[[nn.Module, Batch], Any]
Loss = Callable[[Any, Batch], Tensor]


@dataclass(frozen=True)
class Expectations:
    """What the author intends. None means "not stated"; what is then inferred is reported as inferred.

    Attributes:
        causal: whether a position must not see the future. One truth value, or one per attention
            (a mapping from layer number).
        padding_token: the token id that pads.
        padding_mask: key (or index) in the batch of a mask that is 1 (True) on real tokens.
        order_matters: whether exchanging tokens should change the output.
        next_token: whether the loss predicts the next token.
    """

    causal: bool | Mapping[int, bool] | None = None
    padding_token: int | None = None
    padding_mask: str | int | None = None
    order_matters: bool | None = None
    next_token: bool | None = None

    @classmethod
    def of(cls, stated: Mapping[str, Any] | Expectations | None) -> Expectations:
        """Expectations from a mapping.

        Raises:
            CaseError: an unknown expectation, with the known ones named.
        """
        if stated is None:
            return cls()
        if isinstance(stated, Expectations):
            return stated
        known = [item.name for item in fields(cls)]
        unknown = sorted(set(stated) - set(known))
        if unknown:
            raise CaseError(f"expects has {', '.join(map(repr, unknown))}; it may have {', '.join(known)}")
        return cls(**stated)


@dataclass
class Case:
    """A model and what it is run on.

    Args:
        model: any `nn.Module`.
        batches: one or more batches, in the form in which `forward` takes them. An iterable is read once.
        loss: `loss(output, batch)` -> scalar. The default serves a Hugging Face batch (`output.loss`) and
            an `(inputs, targets)` pair (cross-entropy).
        forward: `forward(model, batch)` -> output. The default passes a mapping as keywords, a pair's
            first element, or the batch itself.
        optimizer: the optimiser that trains the model, when update rules are to be checked.
        expects: see `Expectations`.
        name: shown in reports.
        train_batches: how many batches an iterable is read for, at most.
    """

    model: nn.Module
    batches: Iterable[Batch]
    loss: Loss | None = None
    forward: Forward | None = None
    optimizer: torch.optim.Optimizer | None = None
    expects: Mapping[str, Any] | Expectations | None = None
    name: str = ""
    max_batches: int = field(default=8, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise CaseError(f"Case.model must be a torch.nn.Module, found {type(self.model).__name__}")
        self.expects = Expectations.of(self.expects)
        if self.batches is None:
            raise CaseError("Case.batches must hold at least one batch, found None")
        self.batches = self._read(self.batches)
        if not self.name:
            self.name = type(self.model).__name__

    def _read(self, batches: Any) -> list[Batch]:
        """The first batches, as a list: a mapping or a tensor alone is one batch."""
        if isinstance(batches, Mapping | Tensor) or (
            isinstance(batches, tuple) and batches and all(isinstance(item, Tensor) for item in batches)
        ):
            return [batches]
        read: list[Batch] = []
        for batch in batches:
            read.append(batch)
            if len(read) >= self.max_batches:
                break
        if not read:
            raise CaseError("Case.batches is empty: it was exhausted before, or its source holds no data")
        return read


def default_forward(model: nn.Module, batch: Batch) -> Any:
    """Runs the model: a mapping as keywords, the first element of an (inputs, targets) pair, or the batch."""
    if isinstance(batch, Mapping):
        return model(**batch)
    if isinstance(batch, list | tuple) and len(batch) == 2:
        inputs = batch[0]
        if isinstance(inputs, Mapping):
            return model(**inputs)
        if isinstance(inputs, list | tuple):
            return model(*inputs)
        return model(inputs)
    return model(batch)


def default_loss(output: Any, batch: Batch) -> Tensor:
    """`output.loss` when there is one, else cross-entropy (or mean squared error) with the batch's targets.

    Raises:
        CaseError: neither applies; says what to pass instead.
    """
    loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if isinstance(loss, Tensor):
        return loss
    if not (isinstance(batch, list | tuple) and len(batch) == 2 and isinstance(batch[1], Tensor)):
        raise CaseError(
            "no loss: the output has no `.loss` and the batch is not an (inputs, targets) pair; "
            "pass `loss=lambda output, batch: ...` or put `labels` in the batch"
        )
    targets = batch[1]
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise CaseError(
            f"the model returned {type(output).__name__}, which is neither a tensor nor has `.logits`; "
            "pass `loss=lambda output, batch: ...`"
        )
    if targets.is_floating_point() and targets.shape == logits.shape:
        return nn.functional.mse_loss(logits, targets)
    if targets.is_floating_point():
        raise CaseError(
            f"targets are {tuple(targets.shape)} floats and the output is {tuple(logits.shape)}; pass a loss"
        )
    if logits.shape[:-1] != targets.shape:
        raise CaseError(
            f"targets have shape {tuple(targets.shape)}, the output {tuple(logits.shape)}: cross-entropy "
            "needs one class index per prediction; pass a loss"
        )
    return nn.functional.cross_entropy(logits.flatten(0, -2), targets.flatten().long())
