"""Rankers: who is compared. One baseline or one of our own readings per file.

A ranker looks at the rows of the benchmark and never at their truth. `fit` sees healthy rows only (the bank of the
setting), `suspicion` says how odd a row is as a whole, `order` how odd each place of it is.

Its docstring has one line that says what it looks at, then **Suspicion**, **Places** and **Reference**.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from attnscope.bench.row import Row

__all__ = ["Ranker"]


@dataclass
class Ranker(ABC):
    """Turns rows into a suspicion and an order of places.

    Class facts:
        family: `baseline`, `curvature`, `exact`, `diagnosis` or `combination`.
        lenses: the readings that it needs, and those that did its work because they came first; their cost is its
            cost. `diagnosis` is the whole diagnosis.
    """

    family: ClassVar[str] = "baseline"
    lenses: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        """The ranker's file name."""
        return type(self).__module__.rpartition(".")[2]

    def fit(self, bank: Sequence[Row]) -> None:  # noqa: B027  # most rankers learn nothing
        """Learns what is usual from healthy rows of the same subject; may learn nothing."""

    @abstractmethod
    def suspicion(self, row: Row) -> float:
        """How odd the row is as a whole; larger is odder; comparable between rows of a subject."""

    @abstractmethod
    def order(self, row: Row) -> Mapping[str, float]:
        """Place -> how odd it is. Places that are not named come last, in no order."""

    def kind(self, row: Row) -> str:
        """The kind of fault that it names, or an empty string."""
        return ""
