"""Index replay: where every element of a tensor came from.

Operations that only move elements are run again on an integer index tensor `arange(numel)`; elementwise
operations keep their main operand's elements in place. The answer is exact for any mixture of views,
transposes, slices, repeats and joins, and it does not depend on which sizes happen to coincide.
Equal chains on equal shapes (the layers of a transformer) are replayed once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from attnscope.anatomy.record import Operation, Value
from attnscope.anatomy.vocabulary import BINARY, CAST, JOIN, LAYOUT, UNARY

_LARGEST = 1 << 27  # elements; beyond this an index tensor costs more than it tells


def moved(operation: Operation, index: Tensor, *, output: int = 0, source: Value | None = None) -> Tensor:
    """Runs a layout operation on an index tensor in the place of its (first) tensor argument."""
    source = source if source is not None else operation.inputs[0]
    complex_in = operation.name == "view_as_complex"
    given = index.to(torch.float64) if complex_in else index
    if operation.func._schema.name.endswith("_") and operation.name != "contiguous":
        given = given.clone()  # an in-place form would change our index

    used = False

    def put(item: Any) -> Any:
        nonlocal used
        if isinstance(item, Value):
            if item is source and not used:
                used = True
                return given
            return item.tensor
        if isinstance(item, list | tuple):
            return type(item)(put(part) for part in item)
        return item

    args, kwargs = put(list(operation.args)), {key: put(item) for key, item in operation.kwargs.items()}
    if operation.name in ("constant_pad_nd", "pad"):
        result: Any = torch.constant_pad_nd(args[0], args[1], -1)
    else:
        result = operation.func(*args, **kwargs)
    found: Tensor = result[output] if isinstance(result, list | tuple) else result
    return found.to(torch.int64) if operation.name == "view_as_real" else found


class Layouts:
    """Replays, remembered by the chain's shape so that equal layers cost nothing."""

    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}
        self._results: list[Tensor | Callable[[], Tensor]] = []  # worked out when first asked for
        self._memo: dict[tuple[int, int], int | None] = {}
        self.known: dict[Any, Any] = {}  # what others worked out of equal replays

    def replay(self, value: Value, origin: Value) -> Tensor | None:
        """For every element of `value`, the flat index of the element of `origin` it came from.

        Returns:
            an integer tensor of the value's shape (-1 where it came from elsewhere), or None when the
            value is not a rearrangement of the origin.
        """
        if origin.numel > _LARGEST or value.numel > _LARGEST:
            return None
        number = self._node(value, origin)
        return None if number is None else self._result(number)

    def _result(self, number: int) -> Tensor:
        found = self._results[number]
        if not isinstance(found, Tensor):
            with torch.no_grad():
                found = self._results[number] = found()
        return found

    def unmoved(self, value: Value, origin: Value) -> bool:
        """Whether a value has its origin's elements in its origin's places."""
        number = self._node(value, origin)
        return number is not None and number == self._node(origin, origin)

    def traced(self, value: Value, origin: Value, places: Tensor) -> Tensor | None:
        """For flat indices in a value, the flat indices of the origin's elements there (-1: from elsewhere)."""
        if self.unmoved(value, origin):
            return places
        index = self.replay(value, origin)
        return None if index is None else index.reshape(-1)[places]

    def identical(self, value: Value, origin: Value) -> int | None:
        """A number that is equal for equal replays, or None."""
        return self._node(value, origin)

    def _node(self, value: Value, origin: Value) -> int | None:
        """Depth first without recursion: chains of a deep model are long."""
        waiting = [value]
        while waiting:
            current = waiting[-1]
            place = (current.number, origin.number)
            if place in self._memo:
                waiting.pop()
                continue
            needed = [] if current is origin or current.number < origin.number else _carried(current)
            missing = [item for item in needed if (item.number, origin.number) not in self._memo]
            if missing:
                waiting.extend(missing)
                continue
            self._memo[place] = self._compute(current, origin, needed)
            waiting.pop()
        return self._memo[value.number, origin.number]

    def _compute(self, value: Value, origin: Value, needed: list[Value]) -> int | None:
        if value is origin:
            return self._intern(("origin", value.shape), lambda: torch.arange(value.numel).reshape(value.shape))
        known = [(item, self._memo[item.number, origin.number]) for item in needed]
        if all(number is None for _, number in known):
            return None
        operation = value.producer
        assert operation is not None
        if operation.name in JOIN:
            return self._joined(operation, known)
        if operation.name == "written":
            return self._overwritten(operation, known)
        source, number = next((item, number) for item, number in known if number is not None)
        if operation.name in LAYOUT:
            key = ("layout", str(operation.func), _static(operation, source), number, value.output)
            return self._intern(
                key, lambda: moved(operation, self._result(number), output=value.output, source=source)
            )
        if source.shape == value.shape:
            return number
        return self._intern(("expand", value.shape, number), lambda: _fitted(self._result(number), value.shape))

    def _joined(self, operation: Operation, known: list[tuple[Value, int | None]]) -> int | None:
        numbers = tuple(number if number is not None else ("none", item.shape) for item, number in known)
        by_value = {item.number: number for item, number in known}

        def join() -> Tensor:
            parts = [
                torch.full(item.shape, -1) if by_value[item.number] is None
                else self._result(by_value[item.number])  # type: ignore[arg-type]
                for item in operation.args[0]
            ]
            return operation.func(parts, *operation.args[1:], **operation.kwargs)  # type: ignore[no-any-return]

        return self._intern(("join", str(operation.func), _static(operation, None), numbers), join)

    def _overwritten(self, operation: Operation, known: list[tuple[Value, int | None]]) -> int | None:
        by_value = {item.number: number for item, number in known}

        def write() -> Tensor:
            indices = {item: self._result(number) for item, number in by_value.items() if number is not None}
            return overwritten(operation, indices)

        geometry = tuple(
            (by_value[item.number], item.shape, item.stride, item.offset)
            for item in operation.inputs
        )
        return self._intern(("written", geometry), write)

    def _intern(self, key: Any, make: Any) -> int | None:
        try:
            number = self._numbers.get(key)
        except TypeError:  # an argument that cannot be hashed
            key, number = ("unhashable", len(self._numbers)), None
        if number is None:
            self._results.append(make)
            number = self._numbers[key] = len(self._results) - 1
        return number


def overwritten(operation: Operation, indices: Mapping[int, Tensor]) -> Tensor:
    """Writes through views, replayed on the memory that they share; `indices` by number of the value."""
    old = operation.inputs[0]
    size = max(
        item.offset + 1 + sum((length - 1) * step for length, step in zip(item.shape, item.stride, strict=True))
        for item in operation.inputs
    )
    memory = torch.full((size,), -1)
    for item in operation.inputs:
        view = memory.as_strided(item.shape, item.stride, item.offset)
        index = indices.get(item.number)
        if index is not None:
            view.copy_(index)
        elif item is not old:
            view.fill_(-1)
    return memory.as_strided(old.shape, old.stride, old.offset).clone()


def _carried(value: Value) -> list[Value]:
    """The operands whose elements may keep their place in (or be moved into) this value."""
    operation = value.producer
    if operation is None:
        return []
    name = operation.name
    if name in LAYOUT or name in UNARY or name in CAST:
        return list(operation.inputs[:1]) if value.output == 0 or name in LAYOUT else []
    if name == "where" and len(operation.inputs) > 1:
        return [*operation.inputs[1:], operation.inputs[0]]
    if name == "copy":
        return list(reversed(operation.inputs))
    if name in BINARY or name in JOIN:
        return list(operation.inputs)
    if name in ("matmul", "bmm", "mm", "linear", "conv2d"):
        mixed = _mixed(operation)
        return [] if mixed is None else [mixed]
    return []


def _mixed(operation: Operation) -> Value | None:
    """The operand of a square mixing by a parameter (talking heads): its elements keep their place."""
    for data, weight in (operation.inputs[:2], operation.inputs[1::-1]):
        if weight.inputs == 0 and weight.params and data.inputs and data.shape == operation.out.shape:
            return data
    return None


def _fitted(index: Tensor, shape: tuple[int, ...]) -> Tensor:
    try:
        return index.expand(shape)
    except RuntimeError:
        return index.reshape(shape)


def _static(operation: Operation, source: Value | None) -> Any:
    """The arguments other than the one that is replayed, hashable; other tensors by their number."""

    def plain(item: Any) -> Any:
        if isinstance(item, Value):
            return "self" if item is source else ("tensor", item.number)
        if isinstance(item, list | tuple):
            return tuple(plain(part) for part in item)
        return item

    arguments = plain(operation.args[1:] if source is None else operation.args)
    return arguments, tuple(sorted((key, plain(item)) for key, item in operation.kwargs.items()))

