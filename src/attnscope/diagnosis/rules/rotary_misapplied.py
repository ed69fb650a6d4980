"""Rotary positions are applied to the wrong sides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.diagnosis.rules import Evidence, Examination, Rule, Suspect
from attnscope.diagnosis.rules._evidence import first_source


@dataclass(frozen=True)
class RotaryMisapplied(Rule):
    """Rotary positions turn the values, or only one of queries and keys.

    **What it means** A product of a turned query and a turned key depends on their distance. When only one
    side is turned it depends on that side's absolute position; turned values write positions into the output.

    **Why it matters** Attention loses the sense of distance, most of all beyond the lengths seen in training.

    **Evidence required** The trace sees the rotation on the value, or on exactly one of query and key.

    **When it is a false alarm** Few published models turn values as well (and turn the output back).

    **How to confirm** Shift all positions by one: with rotary positions the scores must not change.

    **What to try** Apply the same rotation to queries and keys, and to nothing else.
    """

    code: ClassVar[str] = "POS404"
    alternatives: ClassVar[tuple[str, ...]] = ("values are turned and the output is turned back, on purpose",)
    remedies: ClassVar[tuple[str, ...]] = (
        "apply the rotation to queries and keys, with the same positions",
        "leave the values as they are",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per attention whose rotation is on the wrong sides."""
        suspects = []
        for attention in examination.anatomy.attentions:
            sides = set(attention.rotary_sides)
            if not sides or sides == {"query", "key"}:
                continue
            layer = f"L{attention.layer}"
            wrong = "the values" if "value" in sides else f"the {next(iter(sides))} only"
            suspects.append(
                Suspect(
                    kind="rotary_misapplied",
                    place=attention.site("positions"),
                    evidence=(
                        Evidence(
                            f"the rotation of {layer} is on {', '.join(sorted(sides))}", "anatomy", exact=True
                        ),
                    ),
                    confidence=0.95,
                    source=first_source(attention.score_step),
                    summary=f"{layer} turns {wrong} by the rotary positions, not queries and keys alike.",
                    effects=("altered_gradient@" + layer + ".*",),
                )
            )
        return suspects
