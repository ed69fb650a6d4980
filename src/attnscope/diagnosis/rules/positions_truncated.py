"""Several positions share one row of the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from attnscope.anatomy.blocks import Role
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Suspect


@dataclass(frozen=True)
class PositionsTruncated(Rule):
    """Several positions share one row of the table of positions, so the model cannot tell them apart.

    **What it means** Rows of the table that training has moved are copies of each other: the table ends early and
    its last row stands for all that follow, or something writes rows over after each step.

    **Why it matters** Those tokens can change places without any effect.

    **Evidence required** Two or more rows, each of which the optimiser has updated, agree bit for bit, and others
    do not. Rows with gradients of their own part at the first step.

    **When it is a false alarm** Positions that are meant to be shared beyond some distance; store them once.
    Rows that no text reaches, and tables before training, are not reported.

    **How to confirm** Print the differences of consecutive rows of the table.

    **What to try** Give the table a row for every position of the longest text.
    """

    code: ClassVar[str] = "POS406"
    needs: ClassVar[tuple[str, ...]] = ("equal_lines",)
    alternatives: ClassVar[tuple[str, ...]] = ("positions beyond some distance share a row on purpose",)
    remedies: ClassVar[tuple[str, ...]] = (
        "give the table a row for every position",
        "look for code that writes to the table after each step, or extends it by its last row",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per table in which some rows agree."""
        reading = examination.reading("equal_lines")
        equal = reading.facts.get("equal", ()) if reading is not None else ()
        return [
            _suspect(item) for item in equal if item["role"] == Role.POSITIONS.value and item["size"] < item["of"]
        ]


def _suspect(item: Mapping[str, Any]) -> Suspect:
    said = (
        f"{item['size']} of {item['of']} trained positions of {item['parameter']} are the same, "
        f"from number {item['first']} to {item['last']}"
    )
    return Suspect(
        kind="positions_truncated",
        place=str(item["block"]),
        evidence=(Evidence(said, "equal_lines", float(item["size"]), 1.0, True),),
        confidence=0.95,
        summary=f"Some positions cannot be told apart: {said}.",
        effects=("positions", "positions_shifted@*"),
    )
