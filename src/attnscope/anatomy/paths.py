"""The path from an operand back to the parameter product that made it, and what happened on the way."""

from __future__ import annotations

from dataclasses import dataclass, field

from attnscope.anatomy.contraction import contraction_of
from attnscope.anatomy.record import Operation, Value
from attnscope.anatomy.vocabulary import BINARY, CAST, CONVOLUTION, JOIN, LAYOUT, NONLINEAR, NORM, REDUCTION, UNARY


@dataclass(eq=False)
class Path:
    """From an operand back to where its elements were made.

    Attributes:
        operand: the value at the end of the computation.
        origin: the value at its start: a parameter product's output, or a hidden tensor.
        operations: between them, from the operand backwards.
        projection: the parameter product that made the origin, if that is what made it.
        beside: operands that were added to the main one on the way (biases, adapters, positions).
    """

    operand: Value
    origin: Value
    operations: list[Operation] = field(default_factory=list)
    projection: Operation | None = None
    beside: list[tuple[Operation, Value]] = field(default_factory=list)

    @property
    def nonlinear(self) -> bool:
        """Whether a nonlinearity lies between origin and operand."""
        return any(operation.name in NONLINEAR for operation in self.operations)


def is_weight(value: Value) -> bool:
    """Whether a value is made from parameters alone."""
    return bool(value.params) and not value.inputs


def projection_sides(operation: Operation) -> tuple[Value, Value] | None:
    """`(input, weight)` when the operation multiplies data (or learned vectors) by a weight."""
    if operation.name in CONVOLUTION:
        data, weight = operation.inputs[0], operation.inputs[1]
        return (data, weight) if is_weight(weight) else None
    contraction = contraction_of(operation)
    if contraction is None or contraction.form == "product":
        return None
    if operation.name == "linear" and is_weight(contraction.b):
        return contraction.a, contraction.b
    a, b = contraction.a, contraction.b
    if is_weight(b) and a.inputs:
        return a, b
    if is_weight(a) and b.inputs:
        return b, a
    if is_weight(a) and is_weight(b) and operation.name in ("addmm", "mm", "matmul", "bmm"):
        return (b, a) if a.producer is None and b.producer is not None else (a, b)
    return None


def main_operand(operation: Operation, value: Value) -> Value | None:
    """The operand that an elementwise or layout operation keeps in place, or None when it has no main one."""
    name = operation.name
    if name in LAYOUT or name in UNARY or name in CAST:
        return operation.inputs[0] if operation.inputs else None
    if name in JOIN:
        learned = [item for item in operation.inputs if item.params and item.inputs]
        return max(learned or list(operation.inputs), key=lambda item: item.numel)
    if name == "copy":
        return operation.inputs[1] if len(operation.inputs) > 1 else None
    if name == "written":
        return max(operation.inputs, key=lambda item: (bool(item.params), item.numel))
    if name not in BINARY:
        return None
    operands = list(operation.inputs[1:] if name == "where" and len(operation.inputs) > 2 else operation.inputs)
    operands = [item for item in operands if not is_statistic(item)] or operands
    ranked = sorted(operands, key=lambda item: _rank(item, value), reverse=True)
    return ranked[0] if ranked else None


def _rank(item: Value, value: Value) -> tuple[int, int]:
    """Data through parameters before parameters alone, those before constants; full size before broadcast."""
    kind = 2 if item.params and item.inputs else 1 if item.params or item.inputs else 0
    return (1 if item.numel > 1 else 0, kind * 10 + (5 if item.numel == value.numel else 0))


def path_back(operand: Value, *, through_norms: bool = True, through_nonlinear: bool = True) -> Path:
    """Walks from an operand to the nearest parameter product.

    When there is none before the computation branches, the origin is the operand with only layout
    undone: the hidden tensor itself is what enters the attention.
    """
    path = Path(operand, operand)
    value = operand
    layout_only, bare, cut = True, operand, 0
    while True:
        operation = value.producer
        if operation is None:
            break
        if value.output == 0 and projection_sides(operation) is not None:
            path.origin, path.projection = value, operation
            return path
        if operation.name in NORM and not through_norms:
            break
        if operation.name in NONLINEAR and not through_nonlinear:
            break
        following = main_operand(operation, value)
        if following is None:
            break
        if operation.name in BINARY and operation.name not in ("copy", "written"):
            rivals = [
                item for item in operation.inputs
                if item is not following and item.params and item.inputs and item.numel == following.numel
                and not is_statistic(item)
            ]
            if rivals:
                chosen = _parallel(following, rivals, operation)
                if chosen is None:
                    break
                following = chosen
            path.beside += [(operation, item) for item in operation.inputs if item is not following]
        path.operations.append(operation)
        if layout_only and (operation.name in LAYOUT or operation.name in CAST):
            bare, cut = following, len(path.operations)
        else:
            layout_only = False
        value = following
    path.origin, path.operations, path.beside = bare, path.operations[:cut], []
    return path


def is_statistic(value: Value) -> bool:
    """Whether a value is a reduction (a norm, a mean, a maximum) brought back to the shape it came from."""
    while value.producer is not None and value.producer.name in LAYOUT | CAST | UNARY:
        value = value.producer.inputs[0]
    return value.producer is not None and value.producer.name in REDUCTION


def _parallel(following: Value, rivals: list[Value], operation: Operation) -> Value | None:
    """Which of several data operands is the main one; None when this is a place where computations join."""
    paths = [path_back(item) for item in (following, *rivals)]
    if any(path.projection is None for path in paths):
        return None
    if len({path.origin.number for path in paths}) == 1:  # a rotation: both come from one projection
        return min(paths, key=lambda path: len(path.operations)).operand
    if operation.name in ("mul", "multiply", "where"):
        return None
    # Parallel projections of one input: a low-rank adapter beside its base. The base reads the input itself.
    inputs = [projection_sides(path.projection)[0] for path in paths if path.projection]  # type: ignore[index]
    direct = [
        path for path, data in zip(paths, inputs, strict=True)
        if any(leads_to(other, data, limit=12) for other in inputs if other is not data)
        or all(other is data for other in inputs)
    ]
    return min(direct, key=lambda path: path.origin.number).operand if direct else None


def leads_to(value: Value, wanted: Value, limit: int) -> bool:
    """Whether a value was computed from another within a few operations."""
    waiting, seen = [(value, 0)], set()
    while waiting:
        item, depth = waiting.pop()
        if item is wanted or item.tensor is wanted.tensor:
            return True
        if item.producer is None or depth >= limit or item.number < wanted.number or item.number in seen:
            continue
        seen.add(item.number)
        waiting.extend((other, depth + 1) for other in item.producer.inputs)
    return False


def operations_behind(operand: Value) -> list[Operation]:
    """Every layout and elementwise operation on any way back from an operand to parameter products."""
    found: dict[int, Operation] = {}
    waiting, seen = [operand], set()
    while waiting:
        value = waiting.pop()
        operation = value.producer
        if operation is None or value.number in seen or len(found) > 200:
            continue
        seen.add(value.number)
        if operation.name in LAYOUT | CAST | UNARY | BINARY | JOIN:
            found[id(operation)] = operation
            waiting.extend(operation.inputs)
    return list(found.values())


def bare(value: Value) -> Value:
    """A value with layout, casts and dropout undone: two uses of one hidden tensor are the same then."""
    while value.producer is not None and value.output == 0 and (
        value.producer.name in LAYOUT or value.producer.name in CAST or value.producer.name.endswith("dropout")
    ):
        value = value.producer.inputs[0]
    return value


