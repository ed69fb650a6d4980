"""The parameters of a small network that scores positions: its last layer is the query, the layer below the key."""

from __future__ import annotations

from attnscope.anatomy.blocks import Form, ParameterSlice, Role
from attnscope.anatomy.contraction import contraction_of
from attnscope.anatomy.dissect import Dissected, hidden_of
from attnscope.anatomy.paths import bare, is_weight, projection_sides
from attnscope.anatomy.projections import parameter_behind
from attnscope.anatomy.record import Operation, Value


def network_parts(dissected: Dissected) -> dict[Role, list[ParameterSlice]]:
    """Whole parameters of the scoring network by role.

    The vector (or last layer) that turns a hidden layer into scores is the query; what makes the hidden
    layer from the positions is the key. In Bahdanau's form, what makes it from the state is a query too.
    """
    first = dissected.found.first
    last = [item for operation in dissected.found.terms or (first,) for item in _learned(operation)]
    found = {Role.QUERY: _whole(last), Role.KEY: []}
    if dissected.form is Form.LINEAR_QUERY or dissected.scorer_hidden is None:
        return {role: parts for role, parts in found.items() if parts}
    layers = _layers_below(dissected.scorer_hidden.operand)
    keys = [layer for layer in layers if _reads_values(layer, dissected)] or layers
    for layer in layers:
        role = Role.KEY if layer in keys else Role.QUERY
        found[role] += _whole([item for item in layer.inputs if is_weight(item)])
    return {role: parts for role, parts in found.items() if parts}


def _learned(operation: Operation) -> list[Value]:
    """The weights that a product reads, also through a multiplication before a sum."""
    contraction = contraction_of(operation)
    inputs = operation.inputs if contraction is None else (contraction.a, contraction.b, contraction.bias)
    return [item for item in inputs if item is not None and is_weight(item)]


def _reads_values(layer: Operation, dissected: Dissected) -> bool:
    """Whether a layer reads the tensor that the values are (or are made from)."""
    sides = projection_sides(layer)
    if sides is None or dissected.value is None:
        return False
    return bare(sides[0]).tensor is bare(hidden_of(dissected.value)).tensor


def _layers_below(value: Value) -> list[Operation]:
    """The nearest parameter products below a value, on every branch."""
    found: list[Operation] = []
    waiting, seen = [value], set()
    while waiting:
        item = waiting.pop()
        operation = item.producer
        if operation is None or id(operation) in seen:
            continue
        seen.add(id(operation))
        if projection_sides(operation) is not None:
            found.append(operation)
        elif contraction_of(operation) is None:
            waiting.extend(item for item in operation.inputs if item.params)
    return sorted(found, key=lambda operation: operation.index)


def _whole(weights: list[Value]) -> list[ParameterSlice]:
    found: dict[str, ParameterSlice] = {}
    for weight in sorted(weights, key=lambda item: -item.tensor.dim()):
        parameter = parameter_behind(weight)
        if parameter is not None:
            found[parameter.name] = ParameterSlice(parameter.name, parameter.shape)
    return list(found.values())
