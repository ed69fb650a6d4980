"""The tensors of every attention, in one canonical layout whatever the model's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attnscope.anatomy.blocks import Anatomy
from attnscope.anatomy.dissect import Dissected, Dissection, dissect
from attnscope.anatomy.ends import hidden_rows, output_rows
from attnscope.anatomy.record import Value, record_forward
from attnscope.anatomy.surroundings import NormModules, surroundings_of
from attnscope.errors import TraceError


@dataclass(frozen=True, eq=False)
class AttentionTensors:
    """One attention's tensors in canonical layout.

    Attributes:
        layer: number of the attention.
        query, key: [B, H, Q, E] and [B, H, K, E] before any scale, grouped heads repeated; None for additive.
        value: [B, H, K, V].
        raw_scores: [B, H, Q, K], the bare products query . key, before scale, bias and mask.
        scores: [B, H, Q, K], what the softmax receives.
        pattern: [B, H, Q, K], what weighs the values.
        softmax_output: [B, H, Q, K], directly after the softmax.
        allowed: bool [B, H, Q, K], what the masks allow; None when there is no mask.
        context: [B, H, Q, V], pattern times value.
        hidden: [B, Q, D], what queries are made from; None when they are learned.
        output: [B, Q, D], after the output projection and before the residual.
        fused_error: for a fused kernel, largest difference between its output and pattern times value.
    """

    layer: int
    query: Tensor | None
    key: Tensor | None
    value: Tensor | None
    raw_scores: Tensor | None
    scores: Tensor
    pattern: Tensor
    softmax_output: Tensor
    allowed: Tensor | None
    context: Tensor | None
    hidden: Tensor | None
    output: Tensor | None
    fused_error: float | None = None


@dataclass(frozen=True, eq=False)
class Observation:
    """Every attention's tensors, in the order of `anatomy.attentions`, and the model's output."""

    attentions: tuple[AttentionTensors, ...]
    output: Any


def observe(
    model: nn.Module, batch: Any, *, anatomy: Anatomy, forward: Callable[[nn.Module, Any], Any], grad: bool = False
) -> Observation:
    """Runs the model once more and reads off the tensors of every attention.

    Args:
        model: the unwrapped model, in the mode in which it is to run; the caller keeps its state.
        batch: a batch, of any shape that the model takes.
        anatomy: from `trace`; the run must show the same attentions.
        forward: calls the model.
        grad: keep the autograd graph on every tensor.

    Returns:
        the tensors in canonical layout, detached unless `grad`.

    Raises:
        TraceError: this run shows another number of attentions than the anatomy.
    """
    record = record_forward(model, batch, forward, grad=grad)
    dissection = dissect(record)
    groups = dissection.groups
    if len(groups) != len(anatomy.attentions):
        raise TraceError(
            f"{type(model).__name__} shows {len(groups)} attentions on this batch and "
            f"{len(anatomy.attentions)} when it was traced: its computation depends on the batch; trace it again"
        )
    norms = NormModules(record)
    with torch.set_grad_enabled(grad):
        found = tuple(
            _side_by_side([_tensors(part, layer, dissection, norms) for part in parts])
            for layer, parts in enumerate(groups)
        )
    return Observation(found, record.result)


def _tensors(dissected: Dissected, layer: int, dissection: Dissection, norms: NormModules) -> AttentionTensors:
    axes, layouts, found = dissected.axes, dissection.layouts, dissected.found
    query = _picked(dissected.query.operand if dissected.query else None, axes.query_rows, dissected.query_factor)
    key = _picked(dissected.key.operand if dissected.key else None, axes.key_rows, dissected.key_factor)
    weighing = dissected.weighing
    value = _picked(dissected.value.operand, weighing.value_rows) if dissected.value and weighing else None
    context = _picked(found.context, weighing.context_rows) if weighing else None
    allowed = _allowed(dissected)
    around = surroundings_of(dissected, dissection, norms)
    side = dissected.query
    hidden = hidden_rows(dissected, layouts) if side is not None and side.operand.inputs else None
    output = output_rows(dissected, around, layouts)
    error: float | None = None
    raw: Tensor | None
    if found.fused is not None:
        raw, scores, pattern = _recomputed(dissected, query, key)
        softmax_output = pattern
        if value is not None and context is not None:
            error = float((pattern @ value - context).abs().max().detach())
    else:
        raw_known = axes.layout.read(axes.raw.tensor)
        before = (dissected.query_factor or 1.0) * (dissected.key_factor or 1.0)
        raw = raw_known / before if raw_known is not None and before != 1.0 else raw_known
        if found.product is not None and found.product.operation.name == "baddbmm" and query is not None:
            raw = query @ key.mT if key is not None else None
        scores = _canonical(dissected, dissection, found.normaliser_input)
        softmax_output = _canonical(dissected, dissection, found.normaliser_output)
        pattern = _canonical(dissected, dissection, found.pattern)
    return AttentionTensors(
        layer, query, key, value, raw, scores, pattern, softmax_output, allowed, context, hidden, output, error
    )


def _side_by_side(parts: list[AttentionTensors]) -> AttentionTensors:
    """Heads that the model loops over, as one attention."""
    if len(parts) == 1:
        return parts[0]
    joined: dict[str, Any] = dict(vars(parts[0]))
    for name in ("query", "key", "value", "raw_scores", "scores", "pattern", "softmax_output", "allowed", "context"):
        tensors = [getattr(part, name) for part in parts]
        joined[name] = None if any(item is None for item in tensors) else torch.cat(tensors, 1)
    return AttentionTensors(**joined)


def _picked(value: Value | None, rows: Tensor | None, factor: float | None = 1.0) -> Tensor | None:
    if value is None or rows is None:
        return None
    found = value.tensor.reshape(-1)[rows]
    return found / factor if factor not in (None, 0.0, 1.0) else found


def _canonical(dissected: Dissected, dissection: Dissection, value: Value | None) -> Tensor:
    found = dissected.axes.canonical(value.tensor, value, dissection.layouts) if value is not None else None
    if found is None:
        return torch.full(dissected.shape, math.nan)
    return found


def _allowed(dissected: Dissected) -> Tensor | None:
    known = [mask.allowed for mask in dissected.masks if mask.allowed is not None and not mask.bias_only]
    if not known:
        return None
    total = known[0]
    for mask in known[1:]:
        total = total & mask
    return total


def _recomputed(dissected: Dissected, query: Tensor | None, key: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Scores and pattern of a fused kernel, from its operands."""
    assert query is not None
    assert key is not None
    raw = query @ key.mT
    scores = raw * (dissected.scale if dissected.scale is not None else 1.0)
    for mask in dissected.masks:
        source = mask.source
        if mask.step.how == "sdpa_float" and source is not None:
            scores = scores + dissected.axes.layout.read(source.tensor.expand(dissected.axes.raw.shape))
        elif mask.allowed is not None:
            scores = scores.masked_fill(~mask.allowed, -math.inf)
    # A row that is forbidden everything weighs nothing, as in the kernels.
    pattern = torch.softmax(scores, -1)
    empty = torch.isneginf(scores).all(-1, keepdim=True)
    return raw, scores, pattern.masked_fill(empty, 0.0) if bool(empty.any()) else pattern
