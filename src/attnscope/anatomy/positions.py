"""Where an attention gets positions from: added embeddings, rotation, a bias on the scores, or nowhere."""

from __future__ import annotations

import torch

from attnscope.anatomy.axes import Side
from attnscope.anatomy.dissect import Dissected, Dissection, hidden_of
from attnscope.anatomy.paths import is_statistic, is_weight, operations_behind, projection_sides
from attnscope.anatomy.position_tensors import is_position_tensor, runs_along_positions
from attnscope.anatomy.record import Operation, Value
from attnscope.anatomy.rows import Provenance
from attnscope.anatomy.vocabulary import CAST, DROPOUT, JOIN, LAYOUT


def positions_of(dissected: Dissected, dissection: Dissection) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The kinds of positional information, and the sides that a rotation was applied to."""
    found = []
    sides = tuple(
        name for name, side in (("query", dissected.query), ("key", dissected.key), ("value", dissected.value))
        if side is not None and is_rotated(side)
    )
    if sides:
        found.append("rotary")
    if has_relative_bias(dissected, dissection):
        found.append("relative bias")
    if has_absolute(dissected, dissection):
        found.append("absolute")
    return tuple(found) or ("none",), sides


def is_rotated(side: Side) -> bool:
    """Whether an operand was rotated by constants: `x * c + permuted(x) * s` with c^2 + s^2 = 1, or in C."""
    for operation in operations_behind(side.operand):
        if operation.name in ("mul", "multiply") and operation.out.tensor.is_complex():
            return True
        if operation.name in ("add", "sub") and len(operation.inputs) == 2:
            factors = [_constant_factor(item) for item in operation.inputs]
            if None not in factors and _unit(*factors):  # type: ignore[arg-type]
                return True
    return False


def _constant_factor(value: Value) -> torch.Tensor | None:
    """The constant `c` of a product `x * c`."""
    value = _stripped(value)
    operation = value.producer
    if operation is None or operation.name not in ("mul", "multiply") or len(operation.inputs) != 2:
        return None
    # A table of sines may be a (frozen) parameter, but it does not depend on the data.
    constants = [item for item in operation.inputs if not (item.params and item.inputs) and item.numel > 1]
    return constants[0].tensor.detach().double() if len(constants) == 1 else None


def _unit(cosine: torch.Tensor, sine: torch.Tensor) -> bool:
    try:
        total = cosine.square() + sine.square()
    except RuntimeError:
        return False
    return bool((total - total.mean()).abs().max() < 0.05 * total.mean().abs())


def _stripped(value: Value) -> Value:
    while value.producer is not None and value.producer.name in LAYOUT | CAST:
        value = value.producer.inputs[0]
    return value


def has_relative_bias(dissected: Dissected, dissection: Dissection) -> bool:
    """Whether a number that depends on the pair of positions alone is added to the scores."""
    fused = dissected.found.fused
    if fused is not None:
        for mask in dissected.masks:
            if mask.source is not None and mask.source.tensor.is_floating_point() and (
                mask.source.params or _is_bias(mask.source)
            ):
                return True
        return False
    product = dissected.found.product
    if product is not None and product.bias is not None and (product.bias.params or _is_bias(product.bias)):
        return True
    for operation in dissected.found.score_path:
        if operation.name not in ("add", "sub") or len(operation.inputs) != 2:
            continue
        others = [
            item for item in operation.inputs
            if dissection.layouts.identical(item, dissected.axes.raw) is None and item.numel > 1
            and not is_statistic(item)
        ]
        if others and (others[0].params or _is_bias(others[0])):
            return True
    return False


def _is_bias(value: Value) -> bool:
    """Whether an added tensor holds more than one number that is not a prohibition."""
    tensor = value.tensor.detach().float()
    kept = tensor[tensor > -1e3]
    return kept.numel() > 1 and bool((kept != kept[0]).any())


def _inside_attention(dissection: Dissection) -> set[int]:
    """Additions to scores, queries and keys: what they bring in stays in the attention."""
    found: set[int] = set()
    for item in dissection.attentions:
        found |= {id(operation) for operation in (*item.found.score_path, *item.found.pattern_path)}
        for side in (item.query, item.key, item.value):
            found |= {id(operation) for operation in side.path.operations} if side is not None else set()
        found |= _additions_after(item.found.context)
    return found


def _additions_after(context: Value) -> set[int]:
    """The additions that an attention's output goes into: what it is added to may be a learned query."""
    found: set[int] = set()
    waiting, seen = [context], {context.number}
    while waiting:
        value = waiting.pop()
        for operation in value.consumers:
            if operation.name == "add" and len(operation.inputs) == 2 and not is_weight(
                operation.inputs[1] if operation.inputs[0] is value else operation.inputs[0]
            ):
                found.add(id(operation))
                continue
            learned = [item for item in operation.inputs if is_weight(item)]
            if learned and operation.name == "add" and learned[0].tensor.dim() > 1:
                found.add(id(operation))
            elif operation.name in LAYOUT | CAST | DROPOUT | JOIN | {"add"} or projection_sides(operation) is not None:
                fresh = [item for item in operation.outputs if item.number not in seen]
                seen |= {item.number for item in fresh}
                waiting.extend(fresh)
    return found


def has_absolute(dissected: Dissected, dissection: Dissection) -> bool:
    """Whether a position embedding was added anywhere upstream of the queries or keys."""
    inside = _inside_attention(dissection)
    sides = [side for side in (dissected.query, dissected.key, dissected.scorer_hidden) if side is not None]
    return any(adds_positions(hidden_of(side), inside, dissection.provenance) for side in sides)


def adds_positions(value: Value, inside: set[int], provenance: Provenance) -> bool:
    """Whether an addition upstream of a value brings in a tensor that depends on the position alone."""
    waiting, seen = [value], set()
    while waiting:
        item = waiting.pop()
        if item.number in seen or item.producer is None:
            continue
        seen.add(item.number)
        operation = item.producer
        if id(operation) in inside:
            waiting.extend(operation.inputs)
            continue
        if operation.name == "add" and _brings_positions(operation, provenance):
            return True
        waiting.extend(operation.inputs)
    return False


def _brings_positions(operation: Operation, provenance: Provenance) -> bool:
    for item in operation.inputs:
        others = [other for other in operation.inputs if other is not item and other.inputs]
        if item.numel > 1 and others and is_position_tensor(item) and runs_along_positions(
            item, others[0], provenance
        ):
            return True
    return False
