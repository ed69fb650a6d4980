"""From an attention taken apart to its plain-data description."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from attnscope.anatomy.axes import Side
from attnscope.anatomy.blocks import Attention, Form, ParameterSlice, Role, SoftmaxStep, Step
from attnscope.anatomy.dissect import Dissected, Dissection
from attnscope.anatomy.find import Found
from attnscope.anatomy.indexing import coordinates_of
from attnscope.anatomy.partition import Heads, RoleParts
from attnscope.anatomy.paths import projection_sides
from attnscope.anatomy.positions import positions_of
from attnscope.anatomy.projections import FeatureMap, parameter_behind, slice_of
from attnscope.anatomy.record import Operation, Value
from attnscope.anatomy.scoring_network import network_parts
from attnscope.anatomy.surroundings import Surroundings
from attnscope.anatomy.unresolved import unresolved_in
from attnscope.anatomy.vocabulary import LAYOUT, MOVING, SOFTMAX

_VIEWS = {"view", "_unsafe_view", "reshape", "unflatten", "flatten"}


def step_of(operation: Operation | None) -> Step | None:
    """An operation as plain data."""
    return None if operation is None else Step(operation.name, operation.source, operation.index)


def describe(
    parts: list[Dissected], layer: int, dissection: Dissection, around: list[Surroundings], model: nn.Module
) -> tuple[Attention, RoleParts]:
    """One attention as plain data, and the parameter slices of its roles.

    Args:
        parts: one, or one for each head when the model loops over its heads.
        layer: its number.
        dissection: the record that it was found in.
        around: the surroundings of each part.
        model: the user's model.
    """
    dissected, beside = parts[0], around[0]
    found, (n_batch, n_heads, n_query, n_key) = dissected.found, dissected.shape
    n_heads = sum(part.shape[1] for part in parts)
    roles = _role_parts(parts, around)
    positions, sides = positions_of(dissected, dissection)
    dot = dissected.form in (Form.DOT_PRODUCT, Form.FUSED)
    width = dissected.axes.query_rows.shape[-1] if dot and dissected.axes.query_rows is not None else None
    value_operation = found.fused if found.value_product is None else found.value_product.operation
    module = _common_module([part.found for part in parts])
    attention = Attention(
        layer=layer, module=module, module_class=type(dict(model.named_modules()).get(module, model)).__name__,
        form=dissected.form, kind=dissected.kind, n_heads=n_heads,
        n_key_heads=sum(part.axes.n_key_heads for part in parts) if dot else n_heads, d_head=width,
        d_value=dissected.weighing.value_rows.shape[-1] if dissected.weighing else None,
        scale=dissected.scale if dot else None, expected_scale=1 / math.sqrt(width) if width else None,
        scale_factors=tuple(factor.value for factor in dissected.factors if factor.value is not None) if dot else (),
        scale_step=step_of(dissected.factors[0].operation) if dissected.factors else None,
        score_step=step_of(found.first), value_step=step_of(value_operation),
        moved_step=step_of(_moves_values(dissected)),
        mask=tuple(mask.step for mask in dissected.masks if not mask.bias_only),
        softmax=_softmax(dissected, dissection), dropout=tuple(beside.dropout), positions=positions, rotary_sides=sides,
        residual=beside.residual is not None, residual_step=step_of(beside.residual or _reader(beside.output_value)),
        residual_gain=beside.residual_gain,
        norm_place=beside.norm_place, causal_source=_causal(dissected),
        head_layout=dissected.axes.mixed if dissected.axes.mixed != "ok" else beside.merged,
        layout_step=step_of(_layout_operation(dissected, beside, dissection)),
        n_queries=n_query, n_keys=n_key, batch_size=n_batch,
    )
    if dot:
        attention = replace(attention, scale_note=_scale_note(attention, dissected))
    return replace(attention, unresolved=tuple(unresolved_in(dissected, attention, roles))), roles


def _common_module(parts: list[Found]) -> str:
    """The innermost module that holds the scores and the weighing of values of every part."""
    paths = []
    for found in parts:
        last = found.fused if found.value_product is None else found.value_product.operation
        assert last is not None
        paths += [found.first.module.split("."), last.module.split(".")]
    common = []
    for names in zip(*paths, strict=False):
        if len(set(names)) > 1:
            break
        common.append(names[0])
    return ".".join(common)


def _role_parts(parts: list[Dissected], around: list[Surroundings]) -> RoleParts:
    """Parameter slices by role: of every head, and those that no single head owns."""
    heads: dict[Role, Heads] = {}
    beside: dict[Role, list[ParameterSlice]] = {}
    for dissected, surroundings in zip(parts, around, strict=True):
        for role, items in _roles(dissected, surroundings).items():
            heads.setdefault(role, []).extend(items)
        for role, whole in _beside(dissected, surroundings).items():
            beside.setdefault(role, []).extend(part for part in whole if part not in beside.get(role, []))
    return RoleParts({role: items if all(items) else [] for role, items in heads.items()}, beside)


def _beside(dissected: Dissected, around: Surroundings) -> dict[Role, list[ParameterSlice]]:
    """Whole parameters that belong to a role and to no single head: adapters, output biases."""
    found: dict[Role, list[ParameterSlice]] = {}
    sides = ((Role.QUERY, dissected.query), (Role.KEY, dissected.key), (Role.VALUE, dissected.value))
    for role, side in sides:
        if side is None or side.projection is None:
            continue
        found[role] = [whole(item) for item in side.projection.adapters]
        if dissected.axes.mixed == "positions mixed":
            maps = [item for item in (side.projection.weight, *side.projection.biases) if item is not None]
            found[role] += [
                part for item in maps if (part := slice_of(item.parameter, used_of(item), item.contracted)) is not None
            ]
    if around.output is not None:
        weight = parameter_behind((projection_sides(around.output.operation) or (None, around.output.data))[1])
        named = [weight] if weight is not None and not around.output_heads else []
        named += [item.parameter for item in around.output.biases] + around.output.adapters
        found[Role.OUTPUT] = [whole(item) for item in named]
    if dissected.query is None:
        found |= network_parts(dissected)
    return found


def whole(parameter: Value) -> ParameterSlice:
    """All of a parameter."""
    return ParameterSlice(parameter.name, parameter.shape)


def used_of(item: FeatureMap) -> Tensor:
    """Every element of the parameter that some feature is made from, once."""
    flat = item.index.reshape(-1)
    return flat[flat >= 0]


def _roles(dissected: Dissected, around: Surroundings) -> dict[Role, Heads]:
    """Parameter slices by role and head."""
    axes, weighing = dissected.axes, dissected.weighing
    found: dict[Role, Heads] = {}
    mixed = axes.mixed == "positions mixed"
    if axes.query_rows is not None and axes.key_rows is not None and dissected.query and dissected.key and not mixed:
        _put(found, Role.QUERY, dissected.query, axes.query_rows)
        _put(found, Role.KEY, dissected.key, axes.key_rows)
    if weighing is not None and dissected.value is not None and not mixed:
        _put(found, Role.VALUE, dissected.value, weighing.value_rows)
    if around.output is not None and around.output_heads:
        found[Role.OUTPUT] = around.output_heads
    return found


def _put(found: dict[Role, Heads], role: Role, side: Side, rows: Tensor) -> None:
    heads = head_slices(side, rows)
    if heads:
        found[role] = heads


def head_slices(side: Side, rows: Tensor) -> Heads:
    """The parameter slices behind each distinct head of an operand."""
    projection = side.projection
    if side.index is None:
        return []
    if projection is None:
        origin = side.path.origin
        if origin.leaf == "parameter":
            return [(ParameterSlice(origin.name, origin.shape),)]
        return []
    maps = [item for item in (projection.weight, *projection.biases) if item is not None]
    origin = projection.origin
    places = side.index.reshape(-1)[rows[0, :, 0]]  # [head, width]
    coordinates = coordinates_of(places, origin.shape)
    used = [item.index.expand(origin.shape)[coordinates] for item in maps]
    found: dict[tuple[ParameterSlice, ...], None] = {}
    for head in range(rows.shape[1]):
        known = places[head] >= 0
        parts = tuple(
            part for item, elements in zip(maps, used, strict=True)
            if (part := slice_of(item.parameter, elements[head][known], item.contracted)) is not None
        )
        found.setdefault(parts)
    return list(found) if all(found) else []


def _moves_values(dissected: Dissected) -> Operation | None:
    """What moves the values along the axis of keys and leaves the keys where they are."""
    key, value = dissected.key or dissected.scorer_hidden, dissected.value
    if key is None or value is None:
        return None
    moves_keys = {operation.name for operation in key.path.operations if operation.name in MOVING}
    moves_values = [operation for operation in value.path.operations if operation.name in MOVING - moves_keys]
    return moves_values[-1] if moves_values else None


def _softmax(dissected: Dissected, dissection: Dissection) -> SoftmaxStep | None:
    found = dissected.found
    if found.fused is not None:
        return SoftmaxStep(found.fused.name, found.fused.source, found.fused.index, dim=-1, over="keys")
    operation = found.normaliser
    if operation is not None and found.hand_sum is not None:
        dims = found.hand_sum.argument(1, "dim", -1)
        dim = dims[0] if isinstance(dims, list | tuple) else dims
        rank = len(operation.out.shape)
        dim = int(dim) % rank - rank
        return SoftmaxStep(
            operation.name, operation.source, operation.index, dim=dim, over=_over(dissected, dissection, dim),
            applications=found.applications,
        )
    if operation is None or found.normaliser_input is None:
        return SoftmaxStep("", None, None, dim=-1, over="unknown", applications=0, normaliser="none")
    dim = operation.argument(1, "dim", -1) if operation.name in SOFTMAX else -1
    value = found.normaliser_input
    rank = len(value.shape)
    dim = int(dim) % rank - rank
    normaliser = "softmax" if operation.name in SOFTMAX or operation.name == "exp" else operation.name
    received = dissection.layouts.traced(value, dissected.axes.raw, _line(value, dim))
    if normaliser == "softmax" and received is not None and bool((received < 0).any()):
        normaliser = "softmax with sinks"  # columns that are no keys take part: rows of the pattern sum to less
    return SoftmaxStep(
        operation.name, operation.source, operation.index, dim=dim,
        over=_over(dissected, dissection, dim), applications=found.applications, normaliser=normaliser,
    )


def _line(value: Value, dim: int) -> Tensor:
    """Flat indices of the first line along a dimension."""
    return torch.arange(value.shape[dim]) * math.prod(value.shape[dim % len(value.shape) + 1:])


def _over(dissected: Dissected, dissection: Dissection, dim: int) -> str:
    """What the axis of the softmax is: which canonical coordinate changes along it."""
    value = dissected.found.normaliser_input
    assert value is not None
    line = _line(value, dim)
    places = dissection.layouts.traced(value, dissected.axes.raw, line)
    if places is None:
        return "unknown"
    line = places[places >= 0]
    coordinates = dissected.axes.layout.places(line)
    varying = [
        name for name, values in zip(("batch", "heads", "queries", "keys"), coordinates, strict=True)
        if len(values) > 1 and bool((values != values[0]).any())
    ]
    if len(line) == 1:
        return "keys" if dissected.shape[3] == 1 else "unknown"
    return varying[0] if len(varying) == 1 else "unknown"


def _causal(dissected: Dissected) -> str:
    """Why the attention is causal, or an empty string."""
    for mask in dissected.masks:
        if mask.step.how == "is_causal":
            return "is_causal is set"
        if mask.step.causal:
            return "the mask seen on this batch forbids exactly the future"
    return ""


def _reader(value: Value | None) -> Operation | None:
    """The first operation that computes with a value: layout and dropout in eval mode only hand it on."""
    while value is not None:
        following = value.consumers[0] if value.consumers else None
        if following is None or following.name not in LAYOUT | {"dropout", "clone"}:
            return following
        value = following.out
    return None


def _layout_operation(dissected: Dissected, beside: Surroundings, dissection: Dissection) -> Operation | None:
    """The view that mixes heads with positions: the first one on the way from a projection, or to the next one."""
    if dissected.axes.mixed == "positions mixed":
        for side in (dissected.query, dissected.key):
            found = [item for item in reversed(side.path.operations) if item.name in _VIEWS] if side else []
            if found:
                return found[0]
    if beside.merged == "positions mixed" and beside.output is not None and dissected.found.value_product is not None:
        start, stop = dissected.found.value_product.operation.index, beside.output.operation.index
        return next((item for item in dissection.record.operations[start + 1 : stop] if item.name in _VIEWS), None)
    return None


def _scale_note(attention: Attention, dissected: Dissected) -> str:
    """Whether a missing scale is made up for by smaller query weights, as T5's initialisation does."""
    if attention.scale is None or attention.expected_scale is None or dissected.query is None or dissected.key is None:
        return ""
    if abs(attention.scale - 1.0) > 1e-6 or attention.d_head in (None, 1):
        return ""
    query, key = dissected.query.projection, dissected.key.projection
    if query is None or key is None or query.weight is None or key.weight is None:
        return ""
    spread = [side.weight.parameter.tensor.detach().float().std() for side in (query, key)]  # type: ignore[union-attr]
    ratio = float(spread[0] / spread[1].clamp(min=1e-12))
    if ratio < 2 * attention.expected_scale:
        return f"query weights are {ratio:.2g} times the key weights, which stands for the scale 1/sqrt(d_head)"
    return ""
