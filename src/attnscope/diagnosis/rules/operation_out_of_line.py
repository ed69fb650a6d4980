"""One layer computes something that no other layer of its stack does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import OddOperation
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect


@dataclass(frozen=True)
class OperationOutOfLine(Rule):
    """One layer of a stack has another activation, or a constant factor, that no other layer has.

    **What it means** The layers run the same code with other weights, but for this one: its feed-forward network
    bends otherwise, or its output is louder or quieter than what it was built for.

    **Why it matters** A factor left over from an experiment, or a wrong activation, changes how much the layer adds
    to the stream and how its weights learn. Nothing fails, since the other layers make up for part of it.

    **Evidence required** In one forward pass exactly one layer of at least three does an activation or a
    multiplication by a constant in a module beside its attention that all the other layers, which agree, do not do
    there; or lacks one that they all do.

    **When it is a false alarm** A first or last layer that is built differently on purpose.

    **How to confirm** Compare the module with that of the layer beside it; set the factor to 1 and evaluate.

    **What to try** Use the same code for all layers.
    """

    code: ClassVar[str] = "CRV607"
    severity: ClassVar[Severity] = Severity.WARNING
    needs: ClassVar[tuple[str, ...]] = ()
    alternatives: ClassVar[tuple[str, ...]] = ("a layer that is built differently on purpose",)
    remedies: ClassVar[tuple[str, ...]] = (
        "use the same activation and factors in every layer",
        "look for a forward hook that was left on the module",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per block that does what no counterpart does."""
        odd = examination.anatomy.odd_operations
        places = dict.fromkeys(item.place for item in odd)
        return [_suspect(place, [item for item in odd if item.place == place]) for place in places]


def _suspect(place: str, odd: list[OddOperation]) -> Suspect:
    first = odd[0]
    does = ", ".join(dict.fromkeys(item.does for item in odd if item.does))
    missing = ", ".join(first.missing)
    others = f"the other {first.n_others} layers of its stack"
    said = f"{place} computes {does}" if does else f"{place} lacks {missing}"
    beside = f", which {others} do not" if does else f", which {others} have"
    instead = f" ({missing} there)" if does and missing else ""
    return Suspect(
        kind="operation_out_of_line",
        place=place,
        evidence=(Evidence(said + beside + instead, "anatomy", exact=True),),
        confidence=0.85,
        source=first.source,
        summary=f"{said}{beside}{instead}.",
    )
