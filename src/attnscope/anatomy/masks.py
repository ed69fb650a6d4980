"""Masks: how something is forbidden, before or after the softmax, and what this batch's mask forbids."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attnscope.anatomy.axes import ScoreAxes
from attnscope.anatomy.blocks import MaskStep
from attnscope.anatomy.find import Found
from attnscope.anatomy.layout import Layouts
from attnscope.anatomy.record import Operation, Value

# No bias that a model learns reaches below this; masks in use start at -100 (shifted windows).
FORBIDDING = -50.0


@dataclass(eq=False)
class Mask:
    """One mask operation: its description, and what it allows in canonical layout (None when unknown).

    `bias_only`: a kernel's mask argument that forbids nothing and only carries a learned bias.
    """

    step: MaskStep
    allowed: Tensor | None
    source: Value | None = None
    bias_only: bool = False


def masks_of(found: Found, axes: ScoreAxes, layouts: Layouts) -> list[Mask]:
    """The masks between raw scores and value product, in order."""
    masks = []
    if found.product is not None and found.product.bias is not None and found.product.operation.name != "linear":
        added = _added(found.product.operation, found.product.bias, found.product.bias.tensor.detach())
        if added is not None:
            how, source, forbidden, fill = added
            allowed = None if forbidden is None else ~forbidden
            operation = found.product.operation
            masks.append(described(operation, how, "before_softmax", source, allowed, fill, axes, layouts))
    for when, path in (("before_softmax", found.score_path), ("after_softmax", found.pattern_path)):
        for operation in path:
            mask = _mask(operation, when, axes, layouts)
            if mask is not None:
                masks.append(mask)
    return masks


def _mask(operation: Operation, when: str, axes: ScoreAxes, layouts: Layouts) -> Mask | None:
    seen = _forbidden_by(operation, when, axes, layouts)
    if seen is None:
        return None
    how, source, forbidden, fill = seen
    return described(
        operation, how, when, source, None if forbidden is None else ~forbidden, fill, axes, layouts
    )


def described(
    operation: Operation, how: str, when: str, source: Value | None, allowed: Tensor | None, fill: float | None,
    axes: ScoreAxes | None, layouts: Layouts,
) -> Mask:
    """A mask with its facts, computed from the mask itself."""
    canonical = None
    if allowed is not None and axes is not None:
        canonical = axes.canonical(allowed.expand(operation.out.shape), operation.out, layouts)
    elif allowed is not None:
        canonical = allowed
    once = None if canonical is None else _without_copies(canonical)
    step = MaskStep(
        op=operation.name, source=operation.source, index=operation.index, how=how, when=when, fill=fill,
        causal=None if once is None else is_causal(once),
        allowed_share=None if once is None else int(once.count_nonzero()) / max(once.numel(), 1),
        shape=source.shape if source is not None else tuple(allowed.shape) if allowed is not None else (),
    )
    return Mask(step, canonical, source)


def _without_copies(allowed: Tensor) -> Tensor:
    """A mask without the examples and heads that only repeat it."""
    for axis in range(2):
        if allowed.stride(axis) == 0:
            allowed = allowed.narrow(axis, 0, 1)
    return allowed


def _forbidden_by(
    operation: Operation, when: str, axes: ScoreAxes, layouts: Layouts
) -> tuple[str, Value | None, Tensor | None, float | None] | None:
    """How, with which tensor, what is forbidden (in the operation's own layout) and by which number."""
    name = operation.name
    if name == "masked_fill":
        mask = operation.args[1]
        return "masked_fill", mask, mask.tensor.bool(), _number(operation.argument(2, "value"))
    if name == "where" and len(operation.args) >= 3:
        condition, first, second = operation.args[:3]
        kept_first = isinstance(first, Value) and layouts.identical(first, axes.raw) is not None
        kept_second = isinstance(second, Value) and layouts.identical(second, axes.raw) is not None
        if kept_first == kept_second:
            return None
        forbidden = ~condition.tensor.bool() if kept_first else condition.tensor.bool()
        return "where", condition, forbidden, _number(second if kept_first else first)
    if name in ("tril", "triu"):
        ones = torch.ones(operation.out.shape, dtype=torch.bool)
        kept = getattr(ones, name)(int(operation.argument(1, "diagonal", 0)))
        return "multiply", None, ~kept, 0.0
    if name == "index_put":
        return _by_assignment(operation)
    if name == "written":
        return _by_writing(operation)
    other = _constant_operand(operation, axes, layouts)
    if other is None:
        return None
    tensor = other.tensor.detach()
    if name in ("add", "sub"):
        return _added(operation, other, -tensor if name == "sub" else tensor)
    if name in ("mul", "multiply"):
        zero_one = bool(((tensor == 0) | (tensor == 1)).all()) or (tensor == 0).any()
        if tensor.dtype is torch.bool or (zero_one and not other.params):
            return "multiply", other, tensor == 0, 0.0
    return None


def _added(
    operation: Operation, other: Value, tensor: Tensor
) -> tuple[str, Value | None, Tensor | None, float | None] | None:
    if not tensor.is_floating_point():
        return None
    forbidden = forbidden_by(tensor, learned=bool(other.params))
    if forbidden is not None:
        return "add", other, forbidden, float(tensor.min())
    forbidden = torch.zeros(tensor.shape, dtype=torch.bool)
    if other.inputs and not other.params and bool((tensor == 0).all()) and tensor.numel() > 1:
        return "add", other, forbidden, None
    return None


def forbidden_by(tensor: Tensor, *, learned: bool) -> Tensor | None:
    """Which elements of an added tensor forbid; None when it is a bias only.

    A prohibition stands apart from the other values: half its own size at least. A bias by distance
    (ALiBi) runs through to its least value. A constant of two values, one of them zero, is a mask however
    small the other is.
    """
    values = tensor.float()
    low = values <= FORBIDDING
    if bool(low.any()):
        rest = values[~low]
        least = float(values[low].max())
        if rest.numel() == 0 or math.isinf(least) or float(rest.min()) - least >= 0.5 * abs(least):
            return low
        if bool(torch.isneginf(values).any()):
            return torch.isneginf(values)
        deep = values <= -1e8  # a mask and a bias by distance in one
        return deep if bool(deep.any()) else None
    if learned or tensor.numel() < 2:
        return None
    high, small = float(values.max()), float(values.min())
    if high == 0.0 and small < 0.0 and bool(((values == 0.0) | (values == small)).all()):
        return values == small
    return None


def _by_assignment(operation: Operation) -> tuple[str, Value | None, Tensor | None, float | None] | None:
    """`scores[mask] = -inf`."""
    indices, values = operation.args[1], operation.args[2]
    if len(indices) == 1 and isinstance(indices[0], Value) and indices[0].tensor.dtype is torch.bool:
        mask = indices[0]
        forbidden = mask.tensor
        while forbidden.dim() < operation.out.tensor.dim():
            forbidden = forbidden.unsqueeze(-1)
        return "masked_fill", mask, forbidden, _number(values)
    return None


def _by_writing(operation: Operation) -> tuple[str, Value | None, Tensor | None, float | None] | None:
    """`scores[:, :, i, i + 1:] = -inf`: what a write through a view fills with one number."""
    writes = [item for item in operation.inputs[1:] if item.producer is not None and item.producer.name == "fill"]
    if not writes:
        return None
    forbidden = torch.zeros(operation.out.shape, dtype=torch.bool)
    same = operation.out.tensor
    if not same.is_contiguous():
        return None
    for item in writes:
        forbidden.as_strided(item.shape, item.stride, item.offset - operation.out.offset).fill_(True)
    assert writes[0].producer is not None
    return "masked_fill", None, forbidden, _number(writes[0].producer.args[1])


def _constant_operand(operation: Operation, axes: ScoreAxes, layouts: Layouts) -> Value | None:
    """The tensor operand that is not the scores."""
    if len(operation.inputs) != 2:
        return None
    others = [item for item in operation.inputs if layouts.identical(item, axes.raw) is None]
    return others[0] if len(others) == 1 and others[0].numel > 1 else None


def _number(item: Any) -> float | None:
    if isinstance(item, Value):
        return float(item.tensor.reshape(-1)[0]) if item.numel == 1 else None
    return float(item) if isinstance(item, int | float) else None


def is_causal(allowed: Tensor) -> bool | None:
    """Whether what is allowed [batch, head, query, key] forbids exactly the future; None for a single query.

    Padding is set aside: a key that no query may see is not counted as forbidden by the causal rule.
    """
    seen = allowed.reshape(-1, *allowed.shape[-2:]).any(0)
    n_query, n_key = seen.shape
    if n_query < 2 or n_key < 2:
        return None
    past = torch.ones(n_query, n_key, dtype=torch.bool).tril(n_key - n_query)
    if bool((seen & ~past).any()):
        return False
    keys, queries = seen.any(0), seen.any(1)
    diagonal = seen.diagonal(n_key - n_query)
    used = keys[n_key - n_query:][: len(diagonal)] & queries[: len(diagonal)] if n_key >= n_query else queries
    forbids = bool((~past & keys).any())  # some key that is used elsewhere is forbidden as future
    return forbids and bool(diagonal[used[: len(diagonal)]].all())
