"""What a trace could not find out about an attention, in plain words."""

from __future__ import annotations

from collections.abc import Iterator

from attnscope.anatomy.blocks import Attention, Form, Role
from attnscope.anatomy.dissect import Dissected
from attnscope.anatomy.partition import RoleParts
from attnscope.anatomy.record import Operation


def _foreign(operation: Operation | None) -> bool:
    """Whether an operation is not one of torch's own (`quantized::linear_dynamic`, a custom kernel)."""
    return operation is not None and operation.func is not None and not operation.func._schema.name.startswith("aten::")


def unresolved_in(dissected: Dissected, attention: Attention, parts: RoleParts) -> Iterator[str]:
    """One sentence for each thing that stays open."""
    yield from dissected.unresolved
    if attention.form in (Form.DOT_PRODUCT, Form.FUSED) and dissected.scale is None:
        yield "the scale is not one number: it varies by head or position"
    sides = (("query", dissected.query), ("key", dissected.key), ("value", dissected.value))
    for name, side in sides:
        if side is None:
            continue
        origin = side.path.origin
        if side.index is None:
            yield f"how the {name}s are laid out could not be followed from {origin.shape} to {side.operand.shape}"
        elif side.projection is not None and side.projection.weight is None:
            yield f"the parameter behind the {name} projection could not be identified"
        elif side.projection is not None and attention.head_layout == "ok" and not parts.heads.get(Role(name)):
            yield f"the part of each head of the {name} projection is not one range of its parameter"
        elif side.projection is None and _foreign(origin.producer):
            yield f"the {name}s come from {origin.producer.name}, whose weight is no nn.Parameter (quantised, say)"  # type: ignore[union-attr]
    for mask in dissected.masks:
        if mask.allowed is None:
            yield f"what the mask at {mask.step.source} allows could not be brought to [batch, head, query, key]"
    if attention.softmax is not None and attention.softmax.over == "unknown" and attention.softmax.applications:
        yield "what the axis of the softmax is could not be told: it mixes several"
