"""What stands around an attention: its output projection, the residual path, norms and dropout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from attnscope.anatomy.blocks import DropoutStep, ParameterSlice
from attnscope.anatomy.contraction import contraction_of
from attnscope.anatomy.dissect import Dissected, Dissection, hidden_of
from attnscope.anatomy.layout import Layouts
from attnscope.anatomy.paths import bare, is_weight, leads_to, main_operand, projection_sides
from attnscope.anatomy.projections import (
    Projection,
    added_bias_map,
    bias_map,
    parameter_behind,
    parameters_between,
    slice_of,
    varying,
    weight_companions,
)
from attnscope.anatomy.record import Operation, Record, Value
from attnscope.anatomy.scaling import factors_on
from attnscope.anatomy.vocabulary import BINARY, CAST, CONVOLUTION, DROPOUT, JOIN, LAYOUT, NORM, UNARY


@dataclass(eq=False)
class Surroundings:
    """Around one attention.

    Attributes:
        output: the output projection; `output_value` is what leaves it (or the context when there is none).
        output_heads: per head, the part of the output weight that reads it.
        residual: the addition to what the attention came from; None when there is none.
        residual_gain: the constant that the residual is multiplied with there; None when it is learned.
        norms: norm operations beside it; `norm_place` is `pre`, `post` or `none`.
        dropout: dropouts on scores, pattern and output.
        merged: `ok`, or `positions mixed` when heads were merged without the transpose.
        inner_norm: a norm between the output and the residual addition.
    """

    output: Projection | None = None
    output_value: Value | None = None
    output_heads: list[tuple[ParameterSlice, ...]] = field(default_factory=list)
    residual: Operation | None = None
    residual_gain: float | None = None
    norms: list[Operation] = field(default_factory=list)
    norm_place: str = "none"
    dropout: list[DropoutStep] = field(default_factory=list)
    merged: str = "ok"
    inner_norm: Operation | None = None


class NormModules:
    """Which modules are normalisations, judged by what they compute."""

    def __init__(self, record: Record) -> None:
        by_module: dict[str, list[Operation]] = {}
        for operation in record.operations:
            by_module.setdefault(operation.module, []).append(operation)
        self.paths = {path for path, operations in by_module.items() if path and _is_norm(operations)}

    def is_norm(self, operation: Operation | None) -> bool:
        """Whether an operation normalises."""
        return operation is not None and (operation.name in NORM or operation.module in self.paths)

    def input_of(self, operation: Operation) -> Value:
        """What the normalisation around an operation reads."""
        value = operation.inputs[0]
        if operation.name in NORM:
            return value
        value = operation.out
        while value.producer is not None and value.producer.module == operation.module:
            following = main_operand(value.producer, value) or value.producer.inputs[0]
            value = following
        return value


def _is_norm(operations: list[Operation]) -> bool:
    names = {operation.name for operation in operations}
    if names & NORM:
        return len(operations) <= 4
    weights = [item for operation in operations for item in operation.inputs if item.leaf == "parameter"]
    return (
        bool(names & {"rsqrt", "sqrt", "std", "var"}) and bool(names & {"mul", "div"}) and len(operations) <= 20
        and all(item.tensor.dim() <= 1 for item in weights)
    )


def surroundings_of(dissected: Dissected, dissection: Dissection, norms: NormModules) -> Surroundings:
    """Follows an attention's context forward to its output projection and the residual addition."""
    found = Surroundings()
    context = dissected.found.context
    value, operation = _next_projection(context, dissected, norms)
    if operation is not None:
        sides = projection_sides(operation)
        assert sides is not None
        found.output = Projection(
            operation, sides[0], operation.out, None,
            adapters=weight_companions(sides[1]) + _low_rank_adapters(operation, sides[0]),
        )
        _read_output(found, dissected, operation, dissection.layouts)
        value = _with_bias(operation.out)
    found.output_value = value
    _residual(found, dissected, value, norms)
    if found.output is not None and not _is_output(found, dissected, operation):
        found.output, found.output_heads, found.output_value, found.merged = None, [], context, "ok"
    _dropouts(found, dissected)
    return found


def _next_projection(context: Value, dissected: Dissected, norms: NormModules) -> tuple[Value, Operation | None]:
    """The first parameter product after the context, through layout, casts, dropout and constant gains only."""
    waiting, seen = [context], {context.number}
    last = context
    while waiting:
        value = waiting.pop(0)
        last = value
        for operation in value.consumers:
            sides = projection_sides(operation)
            if sides is not None and sides[0] is value and _is_read(operation):
                return value, operation
            passes = operation.name in LAYOUT | CAST | DROPOUT | JOIN | {"written", "copy"} or (
                operation.name in ("mul", "div") and operation.out.shape == value.shape  # gains and gates of heads
                and all(item is value or item.numel == 1 or not item.inputs for item in operation.inputs)
            )
            if not passes or norms.is_norm(operation):
                continue
            for item in operation.outputs:
                if item.number not in seen:
                    seen.add(item.number)
                    waiting.append(item)
    return last, None


def _is_read(operation: Operation) -> bool:
    """Whether anybody reads what an operation makes, when another product reads the same: a hook makes it again."""
    rivals = [item for item in operation.inputs[0].consumers if item is not operation and projection_sides(item)]
    return bool(operation.out.consumers) or not rivals


def _low_rank_adapters(operation: Operation, data: Value) -> list[Value]:
    """The parameters of paths from the same data that are added to a projection's output."""
    found: list[Value] = []
    for consumer in _consumers(operation.out):
        for item in consumer.inputs if consumer.name == "add" else ():
            if item.params and item.inputs and leads_to(item, data, limit=12) and not leads_to(
                item, operation.out, limit=60
            ):
                found += parameters_between(item, data)
    own = {parameter_behind(value) for value in operation.inputs if is_weight(value)}
    return [value for value in found if value not in own]


def _with_bias(value: Value) -> Value:
    """A product's output with the bias that is added to it after any rearrangement."""
    waiting = [value]
    while waiting:
        current = waiting.pop()
        for operation in current.consumers:
            if operation.name == "add" and any(_is_bias(item) for item in operation.inputs):
                return operation.out
            if operation.name in LAYOUT | CAST:
                waiting.extend(operation.outputs)
    return value


def _is_bias(value: Value) -> bool:
    return is_weight(value) and value.numel > 1 and value.numel == value.shape[-1]


def _is_output(found: Surroundings, dissected: Dissected, operation: Operation | None) -> bool:
    """Whether the product after the context is this attention's output projection, not the next layer."""
    assert operation is not None
    if found.residual is not None:
        return True
    if dissected.query is None or found.merged == "flattened":
        return False
    width = hidden_of(dissected.query).shape[-1:] if dissected.query is not None else ()
    return operation.out.shape[-1:] == width or dissected.shape[1] > 1


def _read_output(found: Surroundings, dissected: Dissected, operation: Operation, layouts: Layouts) -> None:
    """Which columns of the output weight read which head."""
    assert found.output is not None
    data, weight = projection_sides(operation) or (None, None)
    parameter = parameter_behind(weight) if weight is not None else None
    if data is None or weight is None or parameter is None or dissected.weighing is None:
        return
    contraction = contraction_of(operation)
    bias = operation.argument(2, "bias") if operation.name in CONVOLUTION else contraction.bias if contraction else None
    if isinstance(bias, Value) and bias.params:
        mapped = bias_map(bias, operation.out, layouts, channels=operation.name in CONVOLUTION)
        found.output.biases = [mapped] if mapped is not None else []
    elif bias is None:
        for consumer in _consumers(operation.out):
            for item in consumer.inputs if consumer.name == "add" else ():
                mapped = added_bias_map(item, consumer, operation.out, layouts) if _is_bias(item) else None
                found.output.biases += [mapped] if mapped is not None else []
    index = layouts.replay(data, dissected.found.context)
    weights = layouts.replay(weight, parameter)
    if index is None or weights is None:
        return
    rows = dissected.weighing.context_rows
    n_batch, n_head, n_query, width = rows.shape
    head_of = torch.full((dissected.found.context.numel,), -1)
    head_of[rows.reshape(-1)] = torch.arange(n_head).view(1, -1, 1, 1).expand(rows.shape).reshape(-1)
    row_of = torch.full((dissected.found.context.numel,), -1)
    row_of[rows.reshape(-1)] = (
        torch.arange(n_batch).view(-1, 1, 1, 1) * n_query + torch.arange(n_query).view(1, 1, -1, 1)
    ).expand(rows.shape).reshape(-1)
    if contraction is None:  # a convolution with a kernel of one: its contraction is over the channels
        channels = index.dim() - (operation.out.tensor.dim() - 1)
        along = index.movedim(channels, -1).reshape(-1, index.shape[channels])[0]
        used = weights.reshape(weights.shape[0], weights.shape[1], -1)[0, :, 0]
        made = weights.reshape(weights.shape[0], weights.shape[1], -1)[:, 0, 0]
    else:
        data_side = "a" if contraction.a is data else "b"
        weight_side = "b" if data_side == "a" else "a"
        along = index.reshape(-1)[contraction.along(data_side)]
        used = weights.reshape(-1)[contraction.along(weight_side)]
        rows_of_weight = contraction.rows(weight_side)
        for axis in range(rows_of_weight.dim()):
            if rows_of_weight.stride(axis) == 0:
                rows_of_weight = rows_of_weight.narrow(axis, 0, 1)
        made = weights.reshape(-1)[rows_of_weight.reshape(-1)]
    heads, places = torch.where(along < 0, -1, head_of[along.clamp(min=0)]), row_of[along.clamp(min=0)]
    known = places[heads >= 0]
    if bool((known != known[:1]).any()) and len(along) > rows.shape[-1]:
        # A row that holds every query of an example is pooled on purpose, by flattening.
        found.merged = "positions mixed" if len(along) < n_head * n_query * width else "flattened"
        return
    outputs = varying(made, parameter.shape)
    for head in range(n_head):
        part = slice_of(parameter, used[heads == head], outputs) if bool((heads == head).any()) else None
        if part is None:
            found.output_heads = []
            return
        found.output_heads.append((part,))


def _origins(dissected: Dissected, norms: NormModules) -> dict[int, Operation | None]:
    """Tensors that the queries come from: id -> the norm nearest to it on the way to the queries, if any.

    The way leads through norms, elementwise steps and at most one linear map (a low-rank bottleneck).
    """
    side = dissected.query or dissected.scorer_hidden
    if side is None:
        return {}
    value, last, projections = hidden_of(side), None, 0
    found: dict[int, Operation | None] = {}
    for _ in range(40):
        found.setdefault(id(value.tensor), last)
        operation = value.producer
        if operation is None:
            break
        if norms.is_norm(operation):
            value, last = norms.input_of(operation), operation
            continue
        sides = projection_sides(operation)
        projections += sides is not None
        following = main_operand(operation, value) if operation.name in LAYOUT | CAST | UNARY else None
        following = sides[0] if sides is not None and projections < 2 else following
        if following is None:
            break
        value = following
    return found


def _residual(found: Surroundings, dissected: Dissected, value: Value, norms: NormModules) -> None:
    """The addition of the attention's output to what it came from, and the norms on either side."""
    origins = _origins(dissected, norms)
    waiting, seen = [value], {value.number}
    n_added = 0
    while waiting and found.residual is None:
        current = waiting.pop(0)
        for operation in current.consumers:
            others = [item for item in operation.inputs if item is not current and item.numel > 1]
            place, gain = _known(others[0], operation, origins) if others else (None, None)
            if operation.name == "add" and place is not None and gain != 0:
                found.residual, found.residual_gain = operation, gain
                _norms(found, dissected, operation, origins[place], norms)
                break
            parallel = operation.name == "add" and n_added < 3  # an mlp beside the attention (GPT-J)
            passes = operation.name in LAYOUT | CAST | DROPOUT | {"written"} or norms.is_norm(operation) or parallel
            passes = passes or (operation.name in BINARY and not any(item.inputs for item in others))
            n_added += parallel
            if norms.is_norm(operation) and found.inner_norm is None and not parallel:
                found.inner_norm = operation
            if passes:
                for item in operation.outputs:
                    if item.number not in seen:
                        seen.add(item.number)
                        waiting.append(item)
    if found.residual is None:
        _norms(found, dissected, None, None, norms)


def _known(
    item: Value, operation: Operation, origins: Mapping[int, Operation | None]
) -> tuple[int | None, float | None]:
    """Which origin an addend is, and the constant it is multiplied with; that is None where it is learned."""
    gain: float | None = 1.0
    alpha = operation.kwargs.get("alpha", 1)
    if alpha != 1 and operation.inputs[-1] is item:
        gain = float(alpha)
    for _ in range(4):  # a chain of factors
        for place in (id(item.tensor), id(bare(item).tensor)):
            if place in origins:
                return place, gain
        producer = bare(item).producer
        factors = factors_on([producer]) if producer is not None else []
        if producer is None or not factors:
            break
        learned = any(is_weight(other) for other in producer.inputs) or factors[0].value is None
        gain = None if learned or gain is None else gain * (factors[0].value or 0.0)
        item = max(producer.inputs, key=lambda other: other.numel)
    return None, None


def _norms(
    found: Surroundings, dissected: Dissected, residual: Operation | None, between: Operation | None,
    norms: NormModules,
) -> None:
    """The norm beside an attention: between the residual stream and the queries, or after the addition."""
    side = dissected.query or dissected.scorer_hidden
    before = between if residual is not None else bare(hidden_of(side)).producer if side is not None else None
    made = residual.out if residual is not None else found.output_value
    readers = _consumers(made) if made is not None else []
    after = readers[0] if readers and all(norms.is_norm(item) for item in readers) else None
    if before is not None and norms.is_norm(before):
        found.norms, found.norm_place = [before], "pre"
    elif after is not None or (residual is not None and found.inner_norm is not None):
        found.norms, found.norm_place = [item for item in (after or found.inner_norm,) if item is not None], "post"


def _consumers(value: Value) -> list[Operation]:
    found: list[Operation] = []
    for operation in value.consumers:
        if operation.name in LAYOUT | CAST | DROPOUT:
            found += [item for made in operation.outputs for item in _consumers(made)]
        else:
            found.append(operation)
    return found


def _dropouts(found: Surroundings, dissected: Dissected) -> None:
    for where, path in (("scores", dissected.found.score_path), ("pattern", dissected.found.pattern_path)):
        found.dropout += [dropout_step(item, where) for item in path if item.name in DROPOUT]
    fused = dissected.found.fused
    if fused is not None:
        rate = fused.argument(4, "dropout_p", 0.0)
        if isinstance(rate, float) and rate > 0:
            found.dropout.append(DropoutStep(fused.name, fused.source, fused.index, "pattern", rate, True))
    value = found.output_value
    while value is not None:
        following = next(
            (item for item in value.consumers if item.name in LAYOUT | CAST | DROPOUT and item is not found.residual),
            None,
        )
        if following is None:
            break
        if following.name in DROPOUT:
            found.dropout.append(dropout_step(following, "output"))
            break
        value = following.out


def dropout_step(operation: Operation, where: str) -> DropoutStep:
    """A dropout operation as plain data."""
    rate, active = operation.argument(1, "p"), operation.argument(2, "train")
    return DropoutStep(
        operation.name, operation.source, operation.index, where,
        float(rate) if isinstance(rate, int | float) else None, bool(active) and bool(rate),
    )
