"""What a figure is given and what it is: shared by every figure function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attnscope.formats.numbers import count, typeset
from attnscope.pages.svg import Markup, short
from attnscope.plain import printable
from attnscope.readings import Reading

Array = npt.NDArray[np.float64]
SCALES = {
    "step", "token", "query", "key", "position", "eigenvalue", "offset", "shift", "rank", "grid", "index",
    "time", "frequency", "epoch", "strength",
}
WIDTH = 520.0

@dataclass(frozen=True)
class Figure:
    """A drawn reading.

    Attributes:
        svg: the picture, or several for the reader to choose from (name -> picture).
        caption: what the picture leaves out, and how its scale runs.
        wide: whether it needs the whole width of the page.
    """

    svg: dict[str, Markup]
    caption: str = ""
    wide: bool = False


@dataclass(frozen=True)
class Drawing:
    """What a figure function is given.

    Attributes:
        reading: the numbers.
        number: of the reading on the page; negative when the script cannot read the picture.
        suspects: the entries that a finding rests on.
    """

    reading: Reading
    number: int = 0
    suspects: frozenset[tuple[int, ...]] = frozenset()

    @property
    def ringed(self) -> str:
        """What the rings mean, when there are any."""
        return "ringed: what a finding rests on" if self.suspects else ""

    @property
    def label(self) -> str:
        """The picture in words."""
        return f"{self.reading.lens.replace('_', ' ')}: {summary(self.reading)}"


def everywhere(reading: Reading) -> float | None:
    """The one number that stands everywhere in a reading of several; None when they differ."""
    values = reading.values[~np.isnan(reading.values)]
    return float(values[0]) if values.size > 1 and (values == values[0]).all() else None


def summary(reading: Reading) -> str:
    """The numbers in one sentence: range, median, and where the extremes are."""
    values = reading.values
    finite = np.isfinite(values)
    if not finite.any():
        return reading.note or "no finite value"
    if values.size == 1:
        return f"{typeset(float(values.reshape(-1)[0]))} {_unit(reading)}".strip()
    low, high = float(values[finite].min()), float(values[finite].max())
    broken = int(np.isinf(values).sum())
    tail = f"; {count(broken, 'infinite value')}" if broken else ""
    if low == high:
        return f"{typeset(low)} {_unit(reading)} everywhere{tail}"
    middle = float(np.median(values[finite]))
    where = coordinates(reading, _index(values, high))
    return (
        f"from {typeset(low)} to {typeset(high)} {_unit(reading)} (at {where}), "
        f"median {typeset(middle)}{tail}"
    )


def coordinates(reading: Reading, index: Sequence[int]) -> str:
    """`layer 3, head 5`."""
    said = []
    for dim, position in zip(reading.dims, index, strict=True):
        label = str(reading.labels(dim)[position])
        said.append(label if "block" in dim else f"{dim} {label}")
    return printable(", ".join(said))


def is_place(reading: Reading, dim: str) -> bool:
    """Whether a dim counts things (layers, heads, blocks) and is not a scale (steps, positions)."""
    return dim not in SCALES or any(isinstance(label, str) for label in reading.labels(dim))


def labels(reading: Reading, axis: int) -> list[str]:
    """The labels of an axis, short enough to draw."""
    dim = reading.dims[axis]
    prefix = "L" if dim == "layer" else ""
    return [short(f"{prefix}{label}", 20) for label in reading.labels(dim)]


def hit(
    drawing: Drawing, left: float, top: float, width: float, height: float, columns: int,
    row_order: Sequence[int], *, row_stride: int, column_stride: int,
    column_order: Sequence[int] | None = None,
) -> dict[str, object]:
    """What the page's script needs to say which number the pointer is on."""
    if drawing.number < 0:
        return {}
    ordered = list(row_order) != list(range(len(row_order)))
    turned = column_order is not None and list(column_order) != list(range(columns))
    return {
        "class_": "hit", "tabindex": 0, "data_r": drawing.number,
        "data_box": f"{left:.1f} {top:.1f} {width:.2f} {height:.2f}",
        "data_n": f"{len(row_order)} {columns}", "data_rs": row_stride, "data_cs": column_stride,
        "data_ro": " ".join(map(str, row_order)) if ordered else None,
        "data_co": " ".join(map(str, column_order or ())) if turned else None,
    }


def _unit(reading: Reading) -> str:
    return "" if reading.unit == "1" else printable(reading.unit)


def _index(values: Array, value: float) -> tuple[int, ...]:
    return tuple(int(position) for position in np.argwhere(values == value)[0])
