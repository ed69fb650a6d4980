"""Which axis of a batch tensor counts the examples, and on what evidence."""

from __future__ import annotations

import torch

from attnscope.anatomy.indexing import coordinates_of
from attnscope.anatomy.position_tensors import is_position_tensor
from attnscope.anatomy.record import Record, Value
from attnscope.anatomy.rows import Provenance


class ExampleAxes:
    """Batch tensor -> its example axis; None where neither shapes nor positions tell.

    Evidence, in this order: the axis along which position embeddings run; sizes that all tensors of the
    batch share; token ids are `[example, position]` by convention.
    """

    def __init__(self, record: Record, provenance: Provenance) -> None:
        self._by_shape = _shared_axis(record)
        self._by_position = _position_axes(record, provenance)

    def axis(self, root: Value) -> int | None:
        """The example axis of a batch tensor."""
        if root.tensor.dim() < 2:
            return 0
        position = self._by_position.get(root.number)
        if position is not None:
            return 1 if position == 0 else 0
        if self._by_shape is not None:
            return self._by_shape
        return None if root.tensor.is_floating_point() else 0

    def example(self, root: Value, index: torch.Tensor) -> torch.Tensor | None:
        """The example of each flat index in a batch tensor (-1 stays -1)."""
        axis = self.axis(root)
        if axis is None or not root.shape:
            return None
        stride = 1
        for size in root.shape[axis + 1:]:
            stride *= size
        return torch.where(index < 0, -1, (index // stride) % root.shape[axis])


def _shared_axis(record: Record) -> int | None:
    """The axis (0 or 1) whose size all batch tensors share, when only one of them fits.

    Square tensors tell nothing: they may be masks over pairs of positions.
    """
    shapes = [value.shape for value in record.inputs if value.shape and not _is_square(value.shape)]
    if len(shapes) < 2:
        return None
    first = {shape[0] for shape in shapes}
    second = {shape[1] if len(shape) > 1 else shape[0] for shape in shapes}
    fits = [axis for axis, sizes in enumerate((first, second)) if len(sizes) == 1]
    return fits[0] if len(fits) == 1 else None


def _is_square(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and shape[0] == shape[1]


def _position_axes(record: Record, provenance: Provenance) -> dict[int, int]:
    """Batch tensor -> the axis along which the position embeddings that are added to it run."""
    found: dict[int, int] = {}
    for operation in record.operations:
        if operation.name != "add" or len(operation.inputs) != 2 or operation.out.tensor.dim() < 3:
            continue
        for item, other in (operation.inputs, operation.inputs[::-1]):
            if not other.inputs or other.numel < item.numel or not is_position_tensor(item):
                continue
            rows = provenance.rows(other)
            if rows is None or rows.root.number in found:
                continue
            wide = item.tensor.detach().expand(operation.out.shape)
            axes = [axis for axis in range(wide.dim() - 1) if wide.stride(axis) and wide.shape[axis] > 1
                    and bool((wide.narrow(axis, 0, 1) != wide.narrow(axis, 1, 1)).any())]
            if len(axes) == 1 and rows.index.dim() == wide.dim() and rows.index.shape[axes[0]] > 1:
                start = rows.index.reshape(-1)[0]
                step = rows.index.select(axes[0], 1).reshape(-1)[0]
                coordinates = zip(
                    coordinates_of(start, rows.root.shape), coordinates_of(step, rows.root.shape),
                    strict=True,
                )
                changed = [axis for axis, (a, b) in enumerate(coordinates) if bool(a != b)]
                if len(changed) == 1:
                    found[rows.root.number] = changed[0]
    return found
