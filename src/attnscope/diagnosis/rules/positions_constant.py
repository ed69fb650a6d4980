"""Every token gets the same position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import Role
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Suspect
from attnscope.diagnosis.rules._order import blind_to_order, position_blocks_in_use, too_coarse


@dataclass(frozen=True)
class PositionsConstant(Rule):
    """Positions are added, but every token gets the same one.

    **What it means** A table of positions takes part in the forward pass, and exchanging tokens still changes
    nothing: all tokens look up the same row, or the rows of the table are equal (or zero).

    **Why it matters** The model does not know the order of its tokens, although everything seems to be there.

    **Evidence required** The output depends on a table of positions, and with the inner tokens in another
    order it moves by no more than rounding. Or all rows that training has moved are the same, bit for bit.

    **When it is a false alarm** A model over sets with one learned offset. State
    `expects=dict(order_matters=False)`.

    **How to confirm** Print the position ids, and the spread of the table's rows.

    **What to try** `torch.arange(length)` as position ids; load or initialise the table.
    """

    code: ClassVar[str] = "POS402"
    needs: ClassVar[tuple[str, ...]] = ("token_order", "zero_blocks", "rows_used", "equal_lines")
    alternatives: ClassVar[tuple[str, ...]] = ("the input is a set: state expects=dict(order_matters=False)",)
    remedies: ClassVar[tuple[str, ...]] = (
        "number the positions: torch.arange(length), not zeros",
        "check that the table's rows differ: it may be zero or not loaded",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """At most one suspect, at the table, by what order does; else one per table whose rows are all the same."""
        return _without_effect(examination) or _equal_rows(examination)


def _without_effect(examination: Examination) -> list[Suspect]:
    reading = examination.reading("token_order")
    if reading is None or examination.expects.get("order_matters") is not True or too_coarse(examination):
        return []
    blind, why = blind_to_order(examination, reading)
    rows = examination.reading("rows_used")
    constant = [str(name) for name in rows.facts.get("same_everywhere", ())] if rows is not None else []
    tables = [*position_blocks_in_use(examination.anatomy), *constant]
    if not blind or not tables:
        return []
    zeros = examination.reading("zero_blocks")
    zero = set(zeros.facts.get("zero", ())) if zeros is not None else set()
    what = "the table is all zero" if tables[0] in zero else "every token gets the same row of it"
    role = Role.POSITIONS.value
    return [
        Suspect(
            kind="positions_constant",
            place=tables[0],
            evidence=(
                Evidence(why, "token_order", 0.0, None, True),
                Evidence(f"the output depends on {tables[0]} ({role})", "anatomy", exact=True),
            ),
            confidence=0.95,
            summary=f"All tokens get the same position from {tables[0]}: {what}.",
            effects=("positions", "positions_missing@*"),
        )
    ]


def _equal_rows(examination: Examination) -> list[Suspect]:
    """Tables whose trained rows are all the same: nothing needs to be run to see that."""
    reading = examination.reading("equal_lines")
    equal = reading.facts.get("equal", ()) if reading is not None else ()
    suspects = []
    for item in equal:
        if item["role"] != Role.POSITIONS.value or item["size"] < item["of"]:
            continue
        what = "zero" if item["zero"] else "the same"
        said = f"all {item['of']} trained positions of {item['parameter']} are {what}"
        suspects.append(
            Suspect(
                kind="positions_constant",
                place=str(item["block"]),
                evidence=(Evidence(said, "equal_lines", float(item["size"]), 1.0, True),),
                confidence=0.95,
                summary=f"Every position gets the same numbers: {said}.",
                effects=("positions", "positions_missing@*"),
            )
        )
    return suspects
