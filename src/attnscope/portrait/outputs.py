"""The loss as a function of one tensor among the model's outputs: what the Gauss-Newton matrix is made of."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnscope.errors import CaseError
from attnscope.probe import Probe

AGREES = 1e-4  # relative; both losses are means of the same numbers in float32

OutputLoss = Callable[[Tensor, Any], Tensor]


@dataclass(frozen=True)
class Split:
    """`loss(outputs(model, batch), batch)` is the case's loss."""

    outputs: Callable[[nn.Module, Any], Tensor]
    loss: OutputLoss


def split_loss(probe: Probe) -> Split:
    """Finds the output that the loss is computed from.

    A model that computes its loss itself (`labels` in the batch) gives no function; then cross-entropy of the logits,
    the same one position on, and the mean squared error are tried, and taken if they give the model's number on
    every batch.

    Raises:
        CaseError: the loss uses several outputs, or is none of those.
    """
    found: list[str | int | None] = []
    with probe.evaluating() as model:
        batch = probe.batch
        output = probe.run(model, batch)
        leaves = {key: tensor.detach().requires_grad_() for key, tensor in _tensors(output)}
        if not leaves:
            raise CaseError(f"the model's output ({type(output).__name__}) holds no tensor to make a loss of")
        replaced = output
        for key, tensor in leaves.items():
            replaced = _with(replaced, key, tensor)
        value = probe.loss(replaced, batch)
        if value.requires_grad:
            slopes = torch.autograd.grad(value.reshape(()), list(leaves.values()), allow_unused=True)
            found = [key for key, slope in zip(leaves, slopes, strict=True) if slope is not None]
    if found == ["loss"]:
        return _recognised(probe)
    if len(found) != 1:
        raise CaseError(f"the loss is computed from {len(found)} of the model's outputs; one tensor is needed")
    key = found[0]

    def outputs(model: nn.Module, batch: Any) -> Tensor:
        found_there: Tensor = dict(_tensors(probe.run(model, batch)))[key]
        return found_there

    def loss(tensor: Tensor, batch: Any) -> Tensor:
        if key is None:
            return probe.loss(tensor, batch)
        with torch.no_grad():
            rest = probe.run(probe.model, batch)
        return probe.loss(_with(rest, key, tensor), batch)

    return Split(outputs, loss)


def _recognised(probe: Probe) -> Split:
    def outputs(model: nn.Module, batch: Any) -> Tensor:
        output = probe.run(model, batch)
        found: Tensor = output["logits"] if isinstance(output, Mapping) else output.logits
        return found

    for loss in (_cross_entropy, _next_token, _squared_error):
        if all(_agrees(probe, outputs, loss, batch) for batch in probe.batches):
            return Split(outputs, loss)
    raise CaseError(
        "the model computes its loss itself, and it is none that is known (cross-entropy, next token, squared error); "
        "pass Case(loss=lambda output, batch: ...) that computes it from the logits"
    )


def _agrees(probe: Probe, outputs: Callable[[nn.Module, Any], Tensor], loss: OutputLoss, batch: Any) -> bool:
    try:
        with probe.evaluating() as model, torch.no_grad():
            own, other = float(probe.loss_of(model, batch)), float(loss(outputs(model, batch), batch))
    except Exception:  # this loss does not fit the shapes, or there are no logits or labels
        return False
    return abs(own - other) <= AGREES * max(abs(own), 1e-6)


def _cross_entropy(logits: Tensor, batch: Any) -> Tensor:
    return F.cross_entropy(logits.flatten(0, -2), batch["labels"].flatten())


def _next_token(logits: Tensor, batch: Any) -> Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, -2), batch["labels"][:, 1:].flatten())


def _squared_error(logits: Tensor, batch: Any) -> Tensor:
    one, other = logits.squeeze(), batch["labels"].squeeze()
    if one.shape != other.shape:
        raise ValueError(f"shapes {tuple(one.shape)} and {tuple(other.shape)} would be broadcast")
    return F.mse_loss(one, other)


def _tensors(output: Any) -> Iterator[tuple[Any, Tensor]]:
    """The floating-point tensors of an output, by key; None is the output itself."""
    items: Sequence[tuple[Any, Any]]
    if isinstance(output, Tensor):
        items = [(None, output)]
    elif isinstance(output, Mapping):
        items = list(output.items())
    elif isinstance(output, list | tuple):
        items = list(enumerate(output))
    else:
        items = list(getattr(output, "__dict__", {}).items())
    for key, value in items:
        if isinstance(value, Tensor) and value.is_floating_point():
            yield key, value


def _with(output: Any, key: Any, tensor: Tensor) -> Any:
    """A copy of the output with another tensor in one place."""
    if key is None:
        return tensor
    if isinstance(output, tuple):
        items = [tensor if index == key else item for index, item in enumerate(output)]
        return type(output)(*items) if hasattr(output, "_fields") else type(output)(items)
    found = copy.copy(output)
    if isinstance(output, Mapping | list):
        found[key] = tensor
    else:
        setattr(found, key, tensor)
    return found
