"""Units of a feed-forward network are copies of each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from attnscope.anatomy.blocks import Role, parse_place
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Suspect


@dataclass(frozen=True)
class SymmetricUnits(Rule):
    """Units of a feed-forward network hold the very same weights after training: together they do the work of one.

    **What it means** The network started from a constant, or from one row repeated. Equal units get equal gradients,
    so no number of steps makes them differ.

    **Why it matters** A network of 3072 equal units has one.

    **Evidence required** At least half of the rows (or columns) of a weight agree bit for bit, are not zero, and have
    all been moved by the optimiser.

    **When it is a false alarm** Units that are tied on purpose. Before training nothing is reported.

    **How to confirm** Print two rows of the weight.

    **What to try** Initialise with random numbers.
    """

    code: ClassVar[str] = "PRJ311"
    needs: ClassVar[tuple[str, ...]] = ("equal_lines",)
    alternatives: ClassVar[tuple[str, ...]] = ("units are tied on purpose",)
    remedies: ClassVar[tuple[str, ...]] = ("initialise the weight with random numbers, not with a constant",)

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per network."""
        reading = examination.reading("equal_lines")
        found: dict[str, Suspect] = {}
        for item in reading.facts.get("equal", ()) if reading is not None else ():
            if item["role"] == Role.MLP.value and not item["zero"] and 2 * item["size"] >= item["of"]:
                found.setdefault(str(item["block"]), _suspect(examination, item))
        return list(found.values())


def _suspect(examination: Examination, item: Mapping[str, Any]) -> Suspect:
    block = examination.anatomy.block(str(item["block"]))
    layer = block.layer if block.layer is not None else parse_place(block.name)[0]
    others = [
        other.name
        for other in examination.anatomy.blocks
        if other.role is Role.MLP and other.layer == layer and other.name != block.name
    ]
    lines = "rows" if item["axis"] == 0 else "columns"
    said = f"{item['size']} of {item['of']} trained {lines} of {item['parameter']} are the same"
    return Suspect(
        kind="symmetric_units",
        place=block.name,
        evidence=(Evidence(said, "equal_lines", float(item["size"]), 1.0, True),),
        confidence=0.95,
        summary=f"The units of {block.name} are copies of each other: {said}.",
        effects=(*(f"symmetric_units@{name}" for name in others), "labels_without_signal@*"),
    )
