"""The values of an attention stand at other positions than their keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import Attention
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect


@dataclass(frozen=True)
class ValuesMisplaced(Rule):
    """The values of an attention are moved along the sequence, and their keys are not.

    **What it means** A weight that was given to one position by its key takes the content of another.

    **Why it matters** The pattern looks right, and what is read is not what was looked at. A model trained so
    learns around it where positions are near each other in meaning, and fails where they are not.

    **Evidence required** Between where values are made and where the pattern weighs them, an operation rolls, flips
    or picks along the axis of keys, and none does so on the way of the keys.

    **When it is a false alarm** Attention that reads the past of what it looks at, on purpose.

    **How to confirm** Take the operation away and evaluate; or put the keys through it, too.

    **What to try** Flatten, shift and reorder keys and values together, before they are projected.
    """

    code: ClassVar[str] = "POS407"
    severity: ClassVar[Severity] = Severity.WARNING
    needs: ClassVar[tuple[str, ...]] = ()
    alternatives: ClassVar[tuple[str, ...]] = ("values are read at other positions than keys on purpose",)
    remedies: ClassVar[tuple[str, ...]] = ("reorder keys and values together, before they are projected",)

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per attention whose values are moved."""
        return [_suspect(item) for item in examination.anatomy.attentions if item.moved_step is not None]


def _suspect(attention: Attention) -> Suspect:
    step = attention.moved_step
    op = step.op if step is not None else ""
    name = attention.name
    return Suspect(
        kind="values_misplaced",
        place=attention.blocks.get("value") or attention.site("positions"),
        evidence=(Evidence(f"`{op}` moves the values of {name}, and not its keys", "anatomy", exact=True),),
        confidence=0.9,
        source=step.source if step is not None else None,
        summary=f"The values of {name} are moved along the sequence by `{op}`, and its keys are not.",
        effects=(f"cut_gradient@{name}.*", f"altered_gradient@{name}.*"),
    )
