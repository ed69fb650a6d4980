"""The findings of the diagnosis, in its order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from attnscope.bench.rankers import Ranker
from attnscope.bench.rankers._findings import kind_of, order_of, suspicion_of
from attnscope.bench.row import Row


@dataclass
class Diagnosis(Ranker):
    """The findings of the diagnosis as they come, from identities and from statistics.

    **Suspicion**: the severity of the gravest finding, then its confidence as the rule states it; notes do not
    count. 0 when there is none.

    **Places**: the places of the findings, in the order of the diagnosis; nothing else is named.

    **Reference**: none; the rules are in `attnscope.diagnosis.rules`.
    """

    family: ClassVar[str] = "diagnosis"
    lenses: ClassVar[tuple[str, ...]] = ("diagnosis",)

    def suspicion(self, row: Row) -> float:
        """Between 0 and 3."""
        return suspicion_of(row.findings)

    def order(self, row: Row) -> Mapping[str, float]:
        """The first finding has 1, the second 1/2 and so on."""
        return order_of(row.findings)

    def kind(self, row: Row) -> str:
        """The first finding's."""
        return kind_of(row.findings)
