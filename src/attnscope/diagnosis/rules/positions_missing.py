"""No position reaches the tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import Anatomy, Role, Source
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect
from attnscope.diagnosis.rules._order import blind_to_order, position_blocks_in_use, too_coarse


@dataclass(frozen=True)
class PositionsMissing(Rule):
    """The model does not know the order of its tokens: no position reaches them.

    **What it means** Exchanging tokens changes nothing but the order of the outputs. The table of positions
    is not added, or not looked up; or there is none. In a causal model the mask alone tells deeper layers
    something about order, while the first attention sees a bag of tokens.

    **Why it matters** "dog bites man" and "man bites dog" are the same text to it.

    **Evidence required** Order is meant to matter (stated; or the model has positions somewhere; or it
    predicts the next token). With the inner tokens in another order the output (or the first attention's
    result at the last position) moves by no more than rounding, and no path leads from a table of positions
    to the scores.

    **When it is a false alarm** Sets have no order, and some causal models leave positions out on purpose
    (NoPE; Kazemnejad et al., 2023, arXiv:2305.19466): where nothing but the loss says that order matters, that
    is a note. State `expects=dict(order_matters=False)`.

    **How to confirm** Exchange two inner tokens and compare the outputs.

    **What to try** Add the position embedding to the token embedding, once, before the first layer.
    """

    code: ClassVar[str] = "POS401"
    needs: ClassVar[tuple[str, ...]] = ("token_order", "rows_used")
    alternatives: ClassVar[tuple[str, ...]] = (
        "the input is a set: state expects=dict(order_matters=False)",
        "a causal model without positions, on purpose (NoPE)",
        "positions are added but are the same for every token",
    )
    remedies: ClassVar[tuple[str, ...]] = (
        "add the position embedding to the tokens before the first layer",
        "apply rotary positions to queries and keys",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """At most one suspect, for the whole model."""
        reading = examination.reading("token_order")
        if reading is None or examination.expects.get("order_matters") is not True or too_coarse(examination):
            return []
        blind, why = blind_to_order(examination, reading)
        rows = examination.reading("rows_used")
        constant = rows is not None and rows.facts.get("same_everywhere")
        if not blind or constant or position_blocks_in_use(examination.anatomy):
            return []
        return [_suspect(examination, why)]


def _suspect(examination: Examination, why: str) -> Suspect:
    anatomy = examination.anatomy
    unused = [block.name for block in anatomy.blocks if block.role is Role.POSITIONS]
    inferred = "order_matters" in examination.inferred
    only_mask = "causal mask" in why
    counter = []
    if inferred:
        because = examination.expects.get("order_matters_because", "")
        counter.append(Evidence(f"that order matters is inferred: {because}", "anatomy"))
    certain = not inferred or bool(unused)
    table = f" The table {unused[0]} is there and unused." if unused else ""
    return Suspect(
        kind="positions_missing",
        place="positions",
        evidence=(Evidence(why, "token_order", 0.0, None, True),),
        counter_evidence=tuple(counter),
        confidence=0.95 if certain else 0.6 if only_mask else 0.8,
        severity=_severity(certain, only_mask),
        source=_where(anatomy),
        summary=f"No position reaches the tokens: {why}.{table}",
        effects=(*unused, *(f"unused_parameter@{name}" for name in unused)),
    )


def _severity(certain: bool, only_mask: bool) -> Severity:
    """A decoder without positions may be meant so: its causal mask tells it about order."""
    if only_mask:
        return Severity.WARNING if certain else Severity.NOTE
    return Severity.ERROR if certain else Severity.WARNING


def _where(anatomy: Anatomy) -> Source | None:
    """The line that looks up the tokens, beside which positions should be added."""
    return next(
        (item.source for item in anatomy.inputs if item.use in ("tokens", "features") and item.source), None
    )
