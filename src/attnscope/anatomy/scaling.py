"""The factor between raw query-key products and scores, wherever it is applied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attnscope.anatomy.paths import Path
from attnscope.anatomy.record import Operation, Value

TIMES = frozenset({"mul", "multiply"})
_SCALING = TIMES | {"div", "divide", "true_divide"}


@dataclass(eq=False)
class Factor:
    """A multiplication by one number: `value` is None when the number is learned or varies by head."""

    operation: Operation
    value: float | None


def factors_on(operations: list[Operation]) -> list[Factor]:
    """The multiplications by a number among some operations."""
    found = []
    for operation in operations:
        if operation.name not in _SCALING:
            continue
        number = _number(operation)
        if number is not None:
            value = number if operation.name in TIMES else 1 / number if number else None
            found.append(Factor(operation, value))
    return found


def plain_number(operation: Operation) -> float | None:
    """What a tensor is multiplied with or divided by, where the code has a number there and no tensor."""
    given: list[Any] = [item for item in operation.args if not isinstance(item, Value)]
    scales = operation.name in _SCALING and bool(given) and isinstance(given[0], int | float)
    return float(given[0]) if scales else None


def _number(operation: Operation) -> float | None:
    number = plain_number(operation)
    if number is not None:
        return number
    single = [item for item in operation.inputs if item.numel == 1]
    if len(single) == 1 and len(operation.inputs) == 2 and not single[0].tensor.is_complex():
        return float(single[0].tensor.detach().reshape(-1)[0])
    return None


def product_of(factors: list[Factor]) -> float | None:
    """All factors together."""
    total = 1.0
    for factor in factors:
        if factor.value is None:
            return None
        total *= factor.value
    return total


def factors_before(path: Path) -> list[Factor]:
    """Those applied to a query or key before the product."""
    return factors_on(path.operations)


def fused_in_product(operation: Operation) -> float:
    """`baddbmm(..., alpha=...)` scales inside the product."""
    alpha = operation.kwargs.get("alpha", 1)
    return float(alpha) if isinstance(alpha, int | float) else 1.0
