"""Reading: what a lens returns, a labelled array with its unit, status and settings. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from attnscope.plain import floats, plain

OK = "ok"
NOT_FINITE = "not_finite"
NOT_APPLICABLE = "not_applicable"
FAILED = "failed"
STATUSES = (OK, NOT_FINITE, NOT_APPLICABLE, FAILED)

Label = str | int | float


@dataclass(frozen=True)
class Reading:
    """A labelled array.

    `values` has one axis per entry of `dims`; `coords[dim]` labels that axis (a dim without coords is
    numbered). An entry that does not exist (layer 2 has fewer heads than layer 0) is NaN. A reading that
    could not be made has a status other than `ok`, an empty array and a `note` that says why.

    Attributes:
        lens: the lens's name (its file name).
        values: float64 array, one axis per dim.
        dims: axis names, such as `("layer", "head")` or `("block",)`.
        unit: such as `nats`, `1` (a ratio), `loss/parameter^2`.
        coords: labels along each dim.
        status: one of `STATUSES`.
        note: one sentence a person can act on; empty when all is well.
        stderr: standard error of `values`, same shape, or None when the reading is exact.
        step: training step, or None.
        settings: the lens's fields (its provenance).
        facts: further plain data for rules and cards (JSON types only).
    """

    lens: str
    values: npt.NDArray[np.float64]
    dims: tuple[str, ...]
    unit: str
    coords: Mapping[str, tuple[Label, ...]] = field(default_factory=dict)
    status: str = OK
    note: str = ""
    stderr: npt.NDArray[np.float64] | None = None
    step: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        values = np.asarray(self.values, dtype=np.float64)
        object.__setattr__(self, "values", values)
        if self.status not in STATUSES:
            raise ValueError(f"reading {self.lens!r}: status {self.status!r} is not one of {STATUSES}")
        if values.ndim != len(self.dims):
            raise ValueError(
                f"reading {self.lens!r}: {values.ndim} axes but dims {self.dims}; name each axis once"
            )
        for dim, labels in self.coords.items():
            if dim not in self.dims:
                raise ValueError(f"reading {self.lens!r}: coords for {dim!r}, not one of dims {self.dims}")
            size = values.shape[self.dims.index(dim)]
            if len(labels) != size:
                raise ValueError(f"reading {self.lens!r}: {len(labels)} labels for {dim!r} of size {size}")
        if self.stderr is not None and np.shape(self.stderr) != values.shape:
            raise ValueError(
                f"reading {self.lens!r}: stderr has shape {np.shape(self.stderr)}, values {values.shape}"
            )

    @property
    def ok(self) -> bool:
        """Whether the reading holds numbers that mean what the lens says."""
        return self.status == OK

    def labels(self, dim: str) -> tuple[Label, ...]:
        """The labels along `dim`; numbers when none were given."""
        return tuple(self.coords.get(dim, range(self.values.shape[self.dims.index(dim)])))

    def at(self, **where: Label) -> float:
        """One number, such as `reading.at(layer=2, head=5)`.

        Raises:
            KeyError: a dim is missing or a label is unknown.
        """
        index = []
        for dim in self.dims:
            if dim not in where:
                raise KeyError(f"reading {self.lens!r} needs {self.dims}, got {sorted(where)}")
            try:
                index.append(self.labels(dim).index(where[dim]))
            except ValueError:
                raise KeyError(f"reading {self.lens!r} has no {dim}={where[dim]!r}") from None
        return float(self.values[tuple(index)])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; NaN and infinities become strings, so that every JSON parser reads them."""
        return {
            "lens": self.lens,
            "values": plain(self.values.tolist()),
            "dims": list(self.dims),
            "unit": self.unit,
            "coords": {dim: list(labels) for dim, labels in self.coords.items()},
            "status": self.status,
            "note": self.note,
            "stderr": None if self.stderr is None else plain(np.asarray(self.stderr).tolist()),
            "step": self.step,
            "settings": plain(dict(self.settings)),
            "facts": plain(dict(self.facts)),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Reading:
        """The inverse of `to_dict`."""
        stderr = data.get("stderr")
        dims = tuple(data["dims"])
        values = np.asarray(floats(data["values"]), dtype=np.float64)
        return cls(
            lens=str(data["lens"]),
            # An empty array of several axes is written as an empty list, which has one.
            values=values if values.size else values.reshape((*values.shape, *(0,) * len(dims))[: len(dims)]),
            dims=dims,
            unit=str(data["unit"]),
            coords={dim: tuple(labels) for dim, labels in data.get("coords", {}).items()},
            status=str(data.get("status", OK)),
            note=str(data.get("note", "")),
            stderr=None if stderr is None else np.asarray(floats(stderr), dtype=np.float64),
            step=data.get("step"),
            settings=dict(data.get("settings", {})),
            facts=dict(data.get("facts", {})),
        )


def missing(lens: str, dims: tuple[str, ...], unit: str, status: str, note: str, **settings: Any) -> Reading:
    """A reading that could not be made: empty, with the reason."""
    return Reading(
        lens=lens, values=np.zeros((0,) * len(dims)), dims=dims, unit=unit, status=status, note=note,
        settings=settings,
    )
