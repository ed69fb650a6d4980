"""What goes into an attention and what comes out of it, as rows [batch, query, width]."""

from __future__ import annotations

import torch
from torch import Tensor

from attnscope.anatomy.contraction import contraction_of
from attnscope.anatomy.dissect import Dissected
from attnscope.anatomy.indexing import coordinates_of
from attnscope.anatomy.layout import Layouts
from attnscope.anatomy.paths import projection_sides
from attnscope.anatomy.record import Operation, Value
from attnscope.anatomy.surroundings import Surroundings


def hidden_rows(dissected: Dissected, layouts: Layouts) -> Tensor | None:
    """[batch, query, width]: the rows that the queries are projected from, or the queries when nothing projects."""
    side, rows = dissected.query, dissected.axes.query_rows
    if side is None or rows is None or side.index is None:
        return None
    batch, _, queries, _ = rows.shape
    if side.projection is None:
        return side.operand.tensor.reshape(-1)[rows.transpose(1, 2).reshape(batch, queries, -1)]
    origin = side.path.origin
    places = side.index.reshape(-1)[rows[:, 0, :, 0]].clamp(min=0)
    index = _inputs_of(side.projection.operation, side.projection.data, coordinates_of(places, origin.shape))
    return side.projection.data.tensor.reshape(-1)[index]


def _inputs_of(operation: Operation, data: Value, coordinates: tuple[Tensor, ...]) -> Tensor:
    """For elements of a product's output, the flat indices of the row of data that made each."""
    contraction = contraction_of(operation)
    if contraction is not None:
        return contraction.cube("a" if contraction.a is data else "b")[coordinates]
    return _channels_last(operation, data)[_without_channel(operation, coordinates)]


def _channel_axis(operation: Operation, value: Value) -> int:
    """The channel axis of a convolution's input or output."""
    return value.tensor.dim() - (operation.inputs[1].tensor.dim() - 1)


def _channels_last(operation: Operation, data: Value) -> Tensor:
    index = torch.arange(data.numel).reshape(data.shape)
    return index.movedim(_channel_axis(operation, data), -1)


def _without_channel(operation: Operation, coordinates: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    channel = _channel_axis(operation, operation.out)
    return tuple(item for axis, item in enumerate(coordinates) if axis != channel)


def output_rows(dissected: Dissected, around: Surroundings, layouts: Layouts) -> Tensor | None:
    """[batch, query, width] after the output projection; the context's heads side by side when there is none."""
    if dissected.weighing is None:
        return None
    rows = dissected.weighing.context_rows
    batch, _, queries, _ = rows.shape
    context = dissected.found.context
    if around.output is None or around.output_value is None:
        return context.tensor.reshape(-1)[rows.transpose(1, 2).reshape(batch, queries, -1)]
    operation, data = around.output.operation, around.output.data
    source = layouts.replay(data, context)
    if source is None or projection_sides(operation) is None:
        return None
    row_of = torch.full((context.numel,), -1)
    numbers = torch.arange(batch * queries).reshape(batch, 1, queries, 1)
    row_of[rows.reshape(-1)] = numbers.expand(rows.shape).reshape(-1)
    row_of_data = torch.where(source.reshape(-1) < 0, -1, row_of[source.reshape(-1).clamp(min=0)])
    made = torch.arange(operation.out.numel).reshape(operation.out.shape)
    contraction = contraction_of(operation)
    if contraction is None:
        channel = _channel_axis(operation, operation.out)
        rows_made, numbers = made.movedim(channel, -1), row_of_data[_channels_last(operation, data)[..., 0]]
    else:
        first = contraction.rows("a" if contraction.a is data else "b")
        features = [axis for axis in range(first.dim()) if first.stride(axis) == 0 and first.shape[axis] > 1]
        rest = [axis for axis in range(first.dim()) if axis not in features]
        rows_made = made.permute(*rest, *features).flatten(len(rest)) if features else made.unsqueeze(-1)
        first = first.permute(*rest, *features)
        for _ in features:
            first = first.select(-1, 0)
        numbers = row_of_data[first]
    numbers = numbers.reshape(-1)
    if sorted(numbers.tolist()) != list(range(batch * queries)):
        return None
    index = rows_made.reshape(len(numbers), -1)[torch.argsort(numbers)].reshape(batch, queries, -1)
    return _read(around.output_value, operation.out, index, layouts)


def _read(value: Value, origin: Value, index: Tensor, layouts: Layouts) -> Tensor | None:
    """Elements of a value that rearranges an origin, by their index in the origin."""
    if value is origin:
        return value.tensor.reshape(-1)[index]
    moved = layouts.replay(value, origin)
    if moved is None:
        return None
    inverse = torch.full((origin.numel,), -1)
    inverse[moved.reshape(-1)] = torch.arange(value.numel)
    return value.tensor.reshape(-1)[inverse[index]]
