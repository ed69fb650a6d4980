"""Rotary positions are applied to the wrong sides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.diagnosis.rules import Evidence, Examination, Rule, Suspect
from attnscope.diagnosis.rules._evidence import first_source, layer_fact, shown


@dataclass(frozen=True)
class RotaryMisapplied(Rule):
    """Rotary positions turn the values, or only one of queries and keys.

    **What it means** A product of a turned query and a turned key depends on their distance. When only one
    side is turned it depends on that side's absolute position; turned values write positions into the output.

    **Why it matters** Attention loses the sense of distance, most of all beyond the lengths seen in training.

    **Evidence required** The trace sees the rotation on the value, or on exactly one of query and key. Or, with
    all tokens of the batch replaced by one, two query-key products at the same distance differ beyond rounding
    in the first attention that has rotary positions: the sides are turned by different angles.

    **When it is a false alarm** Few published models turn values as well (and turn the output back).

    **How to confirm** Shift all positions by one: with rotary positions the scores must not change.

    **What to try** Apply the same rotation to queries and keys, and to nothing else.
    """

    code: ClassVar[str] = "POS404"
    needs: ClassVar[tuple[str, ...]] = ("distance_scores",)
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
                    effects=("altered_gradient@" + layer + ".*", "positions_missing@*", "positions_constant@*"),
                )
            )
        return suspects or _angles(examination)


def _angles(examination: Examination) -> list[Suspect]:
    """The rotation is on both sides, but the products do not depend on the distance alone."""
    reading = examination.reading("distance_scores")
    first = None if reading is None else reading.facts.get("first")
    attention = next((item for item in examination.anatomy.attentions if item.layer == first), None)
    if reading is None or attention is None:
        return []
    seen = float(reading.at(layer=attention.layer))
    bound = float(layer_fact(reading, "tolerance", attention.layer) or 0.0)
    said = f"with one token everywhere, query-key products at the same distance differ by {shown(seen)} of |q| |k|"
    return [
        Suspect(
            kind="rotary_misapplied",
            place=attention.site("positions"),
            evidence=(Evidence(said, "distance_scores", seen, bound, True),),
            confidence=0.95,
            source=first_source(attention.score_step),
            summary=f"L{attention.layer} does not turn queries and keys alike: scores depend on more than distance.",
            effects=("wrong_cache_position@*", "positions_*@*"),
        )
    ]
