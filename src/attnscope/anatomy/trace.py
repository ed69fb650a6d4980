"""`trace`: watches one forward pass and says where the attention is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from attnscope.anatomy.blocks import Anatomy, Attention, InputTensor, Source
from attnscope.anatomy.describe import describe
from attnscope.anatomy.dissect import Dissection, dissect
from attnscope.anatomy.odd_operations import odd_operations, scaled_outputs
from attnscope.anatomy.partition import partition
from attnscope.anatomy.position_tensors import counts_up
from attnscope.anatomy.record import Record, Value, batch_tensors, record_forward
from attnscope.anatomy.surroundings import NormModules, surroundings_of
from attnscope.anatomy.unwrap import unwrapped
from attnscope.anatomy.usage import usage_of
from attnscope.anatomy.vocabulary import CAST, JOIN, LAYOUT, LOOKUP, LOSS
from attnscope.calling import default_forward
from attnscope.errors import TraceError
from attnscope.undisturbed import is_unbuilt, undisturbed

Forward = Callable[[nn.Module, Any], Any]


def trace(model: nn.Module, batch: Any, forward: Forward | None = None) -> Anatomy:
    """Watches one forward pass and returns every attention and what every parameter is for.

    The model is run twice in the mode it is in (once watched, once for comparison of cost) and is put back
    exactly as it was.

    Args:
        model: any module; wrappers (`torch.compile`, `DataParallel`, PEFT, ...) are taken off.
        batch: what `forward` takes: a mapping of keyword arguments, an `(inputs, targets)` pair, or a tensor.
        forward: `forward(model, batch)` calls the model; None serves the batches just named.

    Returns:
        the anatomy: plain data.

    Raises:
        TraceError: it is no module, it raises on this batch, or has no values to watch (meta tensors).
    """
    if not isinstance(model, nn.Module):
        raise TraceError(f"trace needs a torch.nn.Module, found {type(model).__name__}; trace(model, batch)")
    inner, wrappers = unwrapped(model)
    _refuse_meta(inner)
    record, forward_seconds, seconds = _watched(inner, batch, forward or default_forward)
    begun = time.perf_counter()
    dissection = dissect(record)
    anatomy = _anatomy(inner, batch, dissection, wrappers)
    seconds += time.perf_counter() - begun
    return Anatomy(**{**vars(anatomy), "seconds": seconds, "forward_seconds": forward_seconds})


def _refuse_meta(model: nn.Module) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta:
            raise TraceError(
                f"{type(model).__name__}.{name} is a meta tensor: it has no values to watch; load the weights "
                "(for example with model.to_empty(...) and load_state_dict) before tracing"
            )


def _watched(model: nn.Module, batch: Any, forward: Forward) -> tuple[Record, float, float]:
    """The record of one pass, and the seconds of a plain one and of the watched one.

    A model that makes parameters in its first pass is run once before it is watched, so that all of them
    have names. One that differentiates inside its forward pass is watched with autograd on.
    """
    try:
        try:
            watched = _run(model, batch, forward, built=is_unbuilt(model), grad=False)
        except RuntimeError as error:
            if "grad" not in str(error):
                raise
            watched = _run(model, batch, forward, built=is_unbuilt(model), grad=True)
        return watched or _run(model, batch, forward, built=True, grad=False) or _gave_up(model)
    except TraceError:
        raise
    except Exception as error:
        raise TraceError(
            f"{type(model).__name__} raised {type(error).__name__} on the batch ({_shapes(batch)}): {error}; "
            "call forward(model, batch) yourself to see it, and pass forward= if the batch needs another call"
        ) from error


def _run(
    model: nn.Module, batch: Any, forward: Forward, *, built: bool, grad: bool
) -> tuple[Record, float, float] | None:
    """One watched and one plain pass; None when the model made parameters while it was watched."""
    with undisturbed(model, seed=0), torch.set_grad_enabled(grad):
        if built:
            forward(model, batch)
        known = {id(parameter) for parameter in model.parameters()}
        begun = time.perf_counter()
        record = record_forward(model, batch, forward, grad=grad)
        seconds = time.perf_counter() - begun
        begun = time.perf_counter()
        forward(model, batch)
        plain = time.perf_counter() - begun
        grown = any(id(parameter) not in known for parameter in model.parameters())
    return None if grown and not built else (record, plain, seconds)


def _gave_up(model: nn.Module) -> tuple[Record, float, float]:
    raise TraceError(
        f"{type(model).__name__} makes new parameters in every forward pass: they have no names to report; "
        "make them in __init__"
    )


def _shapes(batch: Any) -> str:
    found = [f"{path or 'tensor'} {list(tensor.shape)} {tensor.dtype}" for path, tensor in batch_tensors(batch)]
    return ", ".join(found[:6]) or f"a {type(batch).__name__} without tensors"


def _anatomy(model: nn.Module, batch: Any, dissection: Dissection, wrappers: tuple[str, ...]) -> Anatomy:
    record = dissection.record
    norms = NormModules(record)
    groups = dissection.groups
    surroundings = [[surroundings_of(item, dissection, norms) for item in parts] for parts in groups]
    described = [
        describe(parts, layer, dissection, around, model)
        for layer, (parts, around) in enumerate(zip(groups, surroundings, strict=True))
    ]
    attentions, blocks = partition(
        [attention for attention, _ in described], [parts for _, parts in described],
        usage_of(model, dissection, [around[0] for around in surroundings], norms), record.parameters,
    )
    notes = list(dissection.notes) + _notes(model, attentions)
    if not attentions:
        empty = [path for path, tensor in batch_tensors(batch) if tensor.numel() == 0]
        why = f"the batch is empty ({', '.join(empty)})" if empty else (
            "no softmax or kernel weighs positions in this forward pass"
        )
        notes.append(f"no attention found: {why}")
    lines = {value.name: _line(value) for value in record.values if value.leaf == "parameter"}
    blocks = tuple(
        replace(block, source=lines.get(block.slices[0].parameter) if block.slices else None) for block in blocks
    )
    return Anatomy(
        model_class=type(model).__name__, attentions=attentions, blocks=blocks,
        inputs=_inputs(batch, dissection), unused=_unused(record), wrappers=wrappers, notes=tuple(notes),
        odd_operations=odd_operations(record, attentions, blocks), scaled_outputs=scaled_outputs(record, blocks),
        n_operations=record.n_dispatched,
    )


def _notes(model: nn.Module, attentions: tuple[Attention, ...]) -> list[str]:
    """What a person should know about how the trace was made."""
    notes = []
    fast = [
        path or "the model" for path, module in model.named_modules()
        if isinstance(module, nn.TransformerEncoderLayer | nn.MultiheadAttention) and not module.training
    ]
    if fast and torch.backends.mha.get_fastpath_enabled():
        notes.append(
            f"in eval mode torch may run {fast[0]}{' and others' if len(fast) > 1 else ''} on its fused fast path; "
            "the trace watched the plain path, which computes the same"
        )
    sinks = [item.name for item in attentions if item.softmax is not None and "sinks" in item.softmax.normaliser]
    if sinks:
        notes.append(f"the softmax of {', '.join(sinks)} also runs over columns that are no keys (attention sinks)")
    return notes


def _unused(record: Record) -> tuple[str, ...]:
    used = 0
    for value in record.outputs:
        used |= value.params
    return tuple(name for bit, name in enumerate(record.parameters) if not used >> bit & 1)


def _inputs(batch: Any, dissection: Dissection) -> tuple[InputTensor, ...]:
    record = dissection.record
    values = {id(value.tensor): value for value in record.values if value.leaf == "input"}
    in_masks = 0
    for item in dissection.attentions:
        for mask in item.masks:
            in_masks |= mask.source.inputs if mask.source is not None and not mask.source.params else 0
    found = []
    for path, tensor in batch_tensors(batch):
        value = values.get(id(tensor))
        found.append(InputTensor(path, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."),
                                 _use(value, tensor, in_masks), None if value is None else _line(value)))
    return tuple(found)


def _line(value: Value) -> Source | None:
    """The user's line that first reads a leaf."""
    return next((operation.source for operation in value.consumers if operation.source is not None), None)


def _use(value: Value | None, tensor: Tensor, in_masks: int) -> str:
    """What a batch tensor is used for: followed through layout until it is looked up, compared or computed with."""
    if value is None or not value.consumers:
        return "unused"
    waiting, seen, computed = [value], set(), False
    while waiting:
        item = waiting.pop()
        if item.number in seen:
            continue
        seen.add(item.number)
        for operation in item.consumers:
            if operation.name in LOOKUP and operation.args[1] is item:
                return "positions" if counts_up(item.tensor) else "tokens"
            if operation.name in LAYOUT | CAST | JOIN | {"copy", "written", "masked_fill", "where"}:
                waiting.extend(operation.outputs)
            computed = computed or operation.name not in LAYOUT | CAST | LOSS
    if value.inputs & in_masks:
        return "mask"
    if not computed:
        return "unused"
    return "mask" if tensor.dtype is torch.bool else "features"
