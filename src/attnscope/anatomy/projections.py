"""From features back to the rows and columns of the parameters that made them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from attnscope.anatomy.blocks import ParameterSlice
from attnscope.anatomy.contraction import contraction_of
from attnscope.anatomy.indexing import coordinates_of
from attnscope.anatomy.layout import Layouts
from attnscope.anatomy.paths import Path, is_weight, main_operand, projection_sides
from attnscope.anatomy.record import Operation, Value
from attnscope.anatomy.vocabulary import CONVOLUTION


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """Which elements of a parameter make each feature of an origin.

    Attributes:
        parameter: the parameter.
        index: broadcastable to the origin's shape: flat index in the parameter of the first element used.
        contracted: dimensions of the parameter that are summed over (used in full by every feature).
        layout: equal for weights that are rearranged alike.
    """

    parameter: Value
    index: Tensor
    contracted: tuple[int, ...] = ()
    layout: int | None = None


@dataclass(eq=False)
class Projection:
    """A parameter product seen from the attention: its input, weight and bias.

    Attributes:
        operation: the product.
        data: what is multiplied by the weight.
        origin: the product's output.
        weight, biases: which parameter element makes each output feature.
        adapters: parameters of low-rank paths beside the base weight.
    """

    operation: Operation
    data: Value
    origin: Value
    weight: FeatureMap | None
    biases: list[FeatureMap] = field(default_factory=list)
    adapters: list[Value] = field(default_factory=list)


def parameter_behind(value: Value) -> Value | None:
    """The parameter that a weight was made from: through casts, views and reparametrisations."""
    while value.producer is not None:
        operation = value.producer
        following = main_operand(operation, value)
        if following is None or not following.params:
            learned = [item for item in operation.inputs if item.params]
            if not learned:
                return None
            following = max(learned, key=lambda item: item.numel)
        value = following
    return value if value.leaf == "parameter" else None


def projection_of(path: Path, layouts: Layouts) -> Projection | None:
    """The projection at the start of a path, with the biases and adapters that lie along it."""
    operation = path.projection
    sides = projection_sides(operation) if operation is not None else None
    if operation is None or sides is None:
        return None
    data, weight = sides
    found = Projection(operation, data, path.origin, weight_map(operation, weight, layouts))
    contraction = contraction_of(operation)
    bias = operation.argument(2, "bias") if operation.name in CONVOLUTION else contraction.bias if contraction else None
    if isinstance(bias, Value) and bias.params:
        mapped = bias_map(bias, path.origin, layouts, channels=operation.name in CONVOLUTION)
        if mapped is not None:
            found.biases.append(mapped)
    found.adapters += weight_companions(weight)
    for adding, item in path.beside:
        if is_weight(item) and adding.name == "add" and item.numel > 1:
            mapped = added_bias_map(item, adding, path.origin, layouts)
            if mapped is not None:
                found.biases.append(mapped)
        elif item.inputs and item.params:
            own = {parameter_behind(value) for value in operation.inputs if is_weight(value)}
            found.adapters += [value for value in parameters_between(item, data) if value not in own]
    return found


def weight_companions(weight: Value) -> list[Value]:
    """The other parameters that a weight is made from: a magnitude beside a direction, merged adapters."""
    main = parameter_behind(weight)
    found, waiting, seen = [], [weight], set()
    while waiting:
        item = waiting.pop()
        if item.number in seen:
            continue
        seen.add(item.number)
        if item.leaf == "parameter" and item is not main:
            found.append(item)
        elif item.producer is not None:
            waiting.extend(item.producer.inputs)
    return sorted(found, key=lambda item: item.number)


def parameters_between(value: Value, data: Value) -> list[Value]:
    """The parameters on the way from a value back to the projection's input."""
    found, waiting, seen = [], [value], set()
    while waiting:
        item = waiting.pop()
        if item.number in seen or (item.number <= data.number and item.producer is not None):
            continue
        seen.add(item.number)
        if item.leaf == "parameter":
            found.append(item)
        elif item.producer is not None and item is not data:
            waiting.extend(item.producer.inputs)
    return sorted(found, key=lambda item: item.number)


def weight_map(operation: Operation, weight: Value, layouts: Layouts) -> FeatureMap | None:
    """Which parameter element makes each output feature of a parameter product."""
    parameter = parameter_behind(weight)
    index = layouts.replay(weight, parameter) if parameter is not None else None
    if parameter is None or index is None:
        return None
    if operation.name in CONVOLUTION:
        spatial = operation.out.tensor.dim() - 1 if operation.out.tensor.dim() == index.dim() - 1 else index.dim() - 2
        first = index.flatten(1)[:, 0]
        return FeatureMap(
            parameter, first.reshape(-1, *(1,) * spatial), tuple(range(1, parameter.tensor.dim())),
            layouts.identical(weight, parameter),
        )
    contraction = contraction_of(operation)
    if contraction is None:
        return None
    side = "a" if contraction.a is weight else "b"
    flat = index.reshape(-1)
    rows = contraction.rows(side)
    for axis in range(rows.dim()):
        if rows.stride(axis) == 0:
            rows = rows.narrow(axis, 0, 1)
    along = flat[contraction.along(side)]
    return FeatureMap(
        parameter, flat[rows], varying(along, parameter.shape), layouts.identical(weight, parameter)
    )


def bias_map(bias: Value, origin: Value, layouts: Layouts, *, channels: bool = False) -> FeatureMap | None:
    """Which parameter element is added to each feature of an origin."""
    parameter = parameter_behind(bias)
    index = layouts.replay(bias, parameter) if parameter is not None else None
    if parameter is None or index is None:
        return None
    if channels:
        index = index.reshape(-1, *(1,) * (origin.tensor.dim() - 2))
    try:
        index.expand(origin.shape)
    except RuntimeError:
        return None
    return FeatureMap(parameter, index)


def added_bias_map(bias: Value, adding: Operation, origin: Value, layouts: Layouts) -> FeatureMap | None:
    """As `bias_map`, for a bias that is added after the projection's output was rearranged."""
    parameter = parameter_behind(bias)
    index = layouts.replay(bias, parameter) if parameter is not None else None
    place = layouts.replay(adding.out, origin)
    if parameter is None or index is None or place is None:
        return None
    found = torch.full((origin.numel,), -1)
    found[place.reshape(-1)] = index.expand(adding.out.shape).reshape(-1)
    rows = found.reshape(-1, origin.shape[-1])
    if bool((rows != rows[:1]).any()):
        return None  # it varies with the position: not a bias
    return FeatureMap(parameter, found.reshape(origin.shape))


def varying(flat: Tensor, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The dimensions along which a list of flat indices varies."""
    coordinates = coordinates_of(flat, shape)
    return tuple(dim for dim, values in enumerate(coordinates) if len(values) > 1 and bool((values != values[0]).any()))


def slice_of(parameter: Value, used: Tensor, contracted: tuple[int, ...]) -> ParameterSlice | None:
    """The part of a parameter that a list of its elements (at the start of the contraction) stands for.

    Returns:
        a slice along one dimension, the whole parameter, or None when the part is neither.
    """
    shape = parameter.shape
    coordinates = coordinates_of(used.reshape(-1), shape)
    counts = {dim: len(torch.unique(values)) for dim, values in enumerate(coordinates) if dim not in contracted}
    partial = [dim for dim, count in counts.items() if count < shape[dim]]
    if not partial:
        if len(shape) - len(contracted) == 1:
            dim = next(iter(counts))
            ranges = _ranges(coordinates[dim])
            if ranges != ((0, shape[dim]),):
                return ParameterSlice(parameter.name, shape, dim, ranges)
        return ParameterSlice(parameter.name, shape)
    if len(partial) > 1:
        return None
    return ParameterSlice(parameter.name, shape, partial[0], _ranges(coordinates[partial[0]]))


def _ranges(values: Tensor) -> tuple[tuple[int, int], ...]:
    """Runs of consecutive numbers, in order of first use."""
    found: list[list[int]] = []
    seen: set[int] = set()
    for value in values.tolist():
        if value in seen:
            continue
        seen.add(value)
        if found and found[-1][1] == value:
            found[-1][1] = value + 1
        else:
            found.append([value, value + 1])
    return tuple((start, stop) for start, stop in found)
