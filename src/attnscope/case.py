"""Case: a model, its data, its loss and what its author expects of it: all that a diagnosis needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from attnscope.calling import default_forward
from attnscope.errors import CaseError
from attnscope.start import read_start

__all__ = ["Batch", "Case", "Expectations", "Forward", "Loss", "default_forward", "default_loss"]

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
        if not isinstance(stated, Mapping):
            raise CaseError(f"expects must be a mapping, such as dict(causal=True), found {type(stated).__name__}")
        known = [item.name for item in fields(cls)]
        unknown = sorted(map(str, set(stated) - set(known)))
        if unknown:
            raise CaseError(f"expects has {', '.join(map(repr, unknown))}; it may have {', '.join(known)}")
        for name, value in stated.items():
            kinds = _KINDS[name]
            if value is not None and (not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)):
                wanted = " or ".join(kind.__name__ for kind in kinds)
                raise CaseError(f"expects[{name!r}] must be {wanted}, found {value!r}")
        return cls(**stated)


_KINDS: dict[str, tuple[type, ...]] = {
    "causal": (bool, Mapping),
    "padding_token": (int,),
    "padding_mask": (str, int),
    "order_matters": (bool,),
    "next_token": (bool,),
}


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
        max_batches: how many batches an iterable is read for, at most.
        start: the parameters before training, for lenses that measure what training changed: a mapping of
            parameter name -> tensor, or the path of a .safetensors file. None: unknown.
    """

    model: nn.Module
    batches: Iterable[Batch]
    loss: Loss | None = None
    forward: Forward | None = None
    optimizer: torch.optim.Optimizer | None = None
    expects: Mapping[str, Any] | Expectations | None = None
    name: str = ""
    max_batches: int = field(default=8, kw_only=True)
    start: Mapping[str, Tensor] | str | Path | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.model, type) and issubclass(self.model, nn.Module):
            name = self.model.__name__
            raise CaseError(f"Case.model is the class {name}; pass an instance: {name}()")
        if not isinstance(self.model, nn.Module):
            raise CaseError(f"Case.model must be a torch.nn.Module, found {type(self.model).__name__}")
        for name in ("loss", "forward"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise CaseError(f"Case.{name} must be a function, found {type(value).__name__}")
        if self.optimizer is not None and not isinstance(self.optimizer, torch.optim.Optimizer):
            raise CaseError(f"Case.optimizer must be a torch.optim.Optimizer, found {type(self.optimizer).__name__}")
        self.expects = Expectations.of(self.expects)
        _check_weights(self.model)
        self.batches = self._read(self.batches)
        if self.start is not None:
            self.start = read_start(self.start, self.model)
        if not self.name:
            self.name = type(self.model).__name__

    def _read(self, batches: Any) -> list[Batch]:
        """The first batches, as a list: a mapping, a tensor, or a tuple of them is one batch."""
        if batches is None:
            raise CaseError("Case.batches must hold at least one batch, found None")
        if isinstance(batches, str | bytes | int | float):
            raise CaseError(f"Case.batches must hold batches of tensors, found {type(batches).__name__}")
        if _is_one_batch(batches):
            return [_checked_batch(batches, 0)]
        if not isinstance(self.max_batches, int) or self.max_batches < 1:
            raise CaseError(f"Case.max_batches must be at least 1, found {self.max_batches!r}")
        read: list[Batch] = []
        try:
            for batch in batches:
                read.append(_checked_batch(batch, len(read)))
                if len(read) >= self.max_batches:
                    break
        except CaseError:
            raise
        except Exception as error:
            what = f"Case.batches ({type(batches).__name__})"
            if not isinstance(batches, Iterable):
                raise CaseError(f"{what} cannot be iterated; pass a list or a DataLoader") from error
            raise CaseError(f"{what} raised {type(error).__name__} when batch {len(read)} was read: {error}") from error
        if not read:
            raise CaseError(
                f"Case.batches ({type(batches).__name__}) is empty: it was exhausted by an earlier pass, or "
                "its source holds no data; pass a list, or make the iterator anew"
            )
        return read


def _is_one_batch(batches: Any) -> bool:
    if isinstance(batches, Mapping | Tensor):
        return True
    if not isinstance(batches, tuple) or not any(isinstance(item, Tensor) for item in batches):
        return False
    return all(isinstance(item, Tensor | Mapping) for item in batches)


def _check_weights(model: nn.Module) -> None:
    """Refuses weights that hold no numbers, or numbers that have no gradient.

    Raises:
        CaseError: a parameter or buffer is on the meta device, quantised or sparse; names it.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        what = f"{type(model).__name__}.{name}"
        if is_lazy(tensor):
            continue
        if tensor.is_meta:
            raise CaseError(f"{what} is on the meta device and holds no numbers; load the weights first")
        if tensor.is_quantized:
            raise CaseError(f"{what} is quantised ({tensor.dtype}); pass the model before quantisation")
        if tensor.layout is not torch.strided:
            raise CaseError(f"{what} is sparse ({tensor.layout}); call .to_dense() on it first")
    for name, module in model.named_modules():
        if ".quantized." in type(module).__module__ and hasattr(module, "_packed_params"):
            raise CaseError(
                f"{type(model).__name__}.{name} is a quantised {type(module).__name__}, whose weights have "
                "no gradient; pass the model before quantisation"
            )


def _checked_batch(batch: Batch, index: int) -> Batch:
    """The batch, unless it cannot be one.

    Raises:
        CaseError: it is None, holds no example, or its tensors hold no numbers.
    """
    if batch is None:
        raise CaseError(f"batch {index} is None; a collate function or a generator returned nothing")
    if isinstance(batch, int | float | complex):
        raise CaseError(f"batch {index} is the number {batch!r}; a batch holds tensors")
    held = list(_tensors(batch))
    for path, tensor in held:
        if tensor.is_meta:
            raise CaseError(f"batch {index}{path} is on the meta device and holds no numbers")
    if held and held[0][1].numel() == 0:
        path, tensor = held[0]
        raise CaseError(f"batch {index}{path} holds no example: its shape is {tuple(tensor.shape)}")
    return batch


def _tensors(value: Any, path: str = "", depth: int = 4) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
    elif depth and isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors(item, f"{path}[{key!r}]", depth - 1)
    elif depth and isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _tensors(item, f"{path}[{index}]", depth - 1)


def described(value: Any) -> str:
    """A batch or an output in a few words: its type, and the shape of each tensor."""
    if isinstance(value, Tensor):
        return f"a {tuple(value.shape)} tensor of {str(value.dtype).removeprefix('torch.')}"
    parts = [
        f"{path} {tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}" for path, tensor in _tensors(value)
    ]
    shown = "; ".join(parts[:6]) + ("; ..." if len(parts) > 6 else "")
    return f"{type(value).__name__}: {shown}" if shown else type(value).__name__


def could_not_run(model: nn.Module, batch: Batch, error: BaseException) -> str:
    """What to tell the user when the model raises on a batch."""
    said = str(error).strip().splitlines()
    message = (
        f"{type(model).__name__} raised {type(error).__name__} on the batch ({described(batch)}): "
        f"{said[0] if said else 'no message'}"
    )
    devices = {str(parameter.device) for parameter in model.parameters()}
    strangers = sorted({str(tensor.device) for _, tensor in _tensors(batch)} - devices)
    if devices and strangers:
        places = f"the batch is on {', '.join(strangers)} and the model on {', '.join(sorted(devices))}"
        return f"{message}; {places}: move the batch with .to(device)"
    return f"{message}; run forward(model, batch) by itself to see where, or pass `forward=lambda model, batch: ...`"


def checked_loss(value: Any) -> Tensor:
    """The loss as a scalar.

    Raises:
        CaseError: it is not one real number in a tensor.
    """
    if isinstance(value, int | float):
        raise CaseError(
            f"the loss is the Python number {value!r}, which has no gradient; return the tensor, without .item()"
        )
    if not isinstance(value, Tensor):
        raise CaseError(f"the loss must be a scalar tensor, found {type(value).__name__}")
    if value.numel() != 1:
        raise CaseError(f"the loss must be a scalar tensor, found shape {tuple(value.shape)}; reduce it with .mean()")
    if not value.is_floating_point():
        raise CaseError(f"the loss must be a real number, found {value.dtype}; it has no gradient")
    return value.reshape(())


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
