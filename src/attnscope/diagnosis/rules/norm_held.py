"""The norm of a table is cut back after each step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect
from attnscope.diagnosis.rules._evidence import shown


@dataclass(frozen=True)
class NormHeld(Rule):
    """A table of tokens or positions is trained, and something keeps its norm where it was.

    **What it means** After each step the table is scaled back to the norm that it had: a cap that is too low, a
    constraint left over from an experiment.

    **Why it matters** The table cannot grow to the size that the task wants, so what it tells the model (where a
    token stands, say) drowns in the rest.

    **Evidence required** Since the start of training the numbers have moved by a tenth of the table's norm or more,
    and the norm by less than rounding.

    **When it is a false alarm** A norm that is capped on purpose. Tables all of whose rows have one norm (embeddings
    on a sphere) are not reported; nor is anything when the start is unknown.

    **How to confirm** Print the norm of the table before and after one step of the optimiser.

    **What to try** Look for code that writes to the table after each step.
    """

    code: ClassVar[str] = "GRD521"
    severity: ClassVar[Severity] = Severity.WARNING
    needs: ClassVar[tuple[str, ...]] = ("held_norms",)
    alternatives: ClassVar[tuple[str, ...]] = ("the norm is capped on purpose",)
    remedies: ClassVar[tuple[str, ...]] = ("look for code that scales the table after each step, and remove it",)

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per table."""
        reading = examination.reading("held_norms")
        return [] if reading is None else [_suspect(**item) for item in reading.facts.get("held", ())]


def _suspect(block: str, parameter: str, moved: float, change: float) -> Suspect:
    said = (
        f"training has moved {parameter} by {shown(moved)} of its norm, and the norm by {shown(change)} of itself, "
        "which is rounding"
    )
    return Suspect(
        kind="norm_held",
        place=block,
        evidence=(Evidence(said, "held_norms", change, None, True),),
        confidence=0.9,
        summary=f"Something keeps the norm of {block} where it was: {said}.",
    )
