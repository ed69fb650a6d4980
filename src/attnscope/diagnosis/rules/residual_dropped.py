"""An attention's output replaces what it came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import Attention, Kind
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect
from attnscope.diagnosis.rules._collapse import AFTER_COLLAPSE, first_collapsed
from attnscope.diagnosis.rules._evidence import first_source, peers_of, shown


@dataclass(frozen=True)
class ResidualDropped(Rule):
    """The output of an attention is not added to its input: the residual connection is missing.

    **What it means** After this layer only what attention mixed is left; a token's own content is gone unless
    the attention copies it.

    **Why it matters** Attention alone loses rank doubly exponentially with depth (Dong et al. 2021), and the
    gradient has no short way back.

    **Evidence required** The trace sees no addition of the attention's input to its output, although other
    attentions of the same stack have one (an error), or the layer is one of a stack of normalised
    self-attentions, which are built around residuals (a warning).

    **When it is a false alarm** Pooling and fusion attentions have none by design; they are not reported.

    **How to confirm** Set the output projection to zero: the layer must pass its input through.

    **What to try** `hidden = hidden + attention(norm(hidden))`.
    """

    code: ClassVar[str] = "CRV602"
    needs: ClassVar[tuple[str, ...]] = ()  # the token spread is welcome, not needed
    alternatives: ClassVar[tuple[str, ...]] = ("an architecture without residuals, on purpose",)
    remedies: ClassVar[tuple[str, ...]] = ("add the attention's input to its output",)

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per attention without a residual where one belongs."""
        collapsed = first_collapsed(examination)
        suspects = []
        for attention in examination.anatomy.attentions:
            if attention.residual is not False or attention.kind is Kind.LEARNED_QUERY:
                continue
            peers = peers_of(examination.anatomy, attention)
            if any(other.residual for other in peers):
                why = "the other attentions of its stack have one"
                suspects.append(_suspect(attention, why, Severity.ERROR, 0.95, None))
            elif (
                peers
                and attention.kind is Kind.SELF
                and (collapsed or attention.norm_place in ("pre", "post"))
            ):
                why = f"a stack of {len(peers) + 1} self-attentions without one loses rank with depth"
                severity = Severity.ERROR if collapsed else Severity.WARNING
                suspects.append(_suspect(attention, why, severity, 0.9 if collapsed else 0.7, collapsed))
        return suspects


def _suspect(
    attention: Attention, why: str, severity: Severity, confidence: float, collapsed: tuple[int, float] | None
) -> Suspect:
    layer = f"L{attention.layer}"
    evidence = [
        Evidence(f"the output of {layer} is not added to its input", "anatomy", exact=True),
        Evidence(why, "anatomy"),
    ]
    if collapsed is not None:
        evidence.append(
            Evidence(
                f"the tokens that enter L{collapsed[0]} differ by {shown(collapsed[1])} of their size",
                "token_spread",
                collapsed[1],
            )
        )
    return Suspect(
        kind="residual_dropped",
        place=attention.site("residual"),
        severity=severity,
        confidence=confidence,
        evidence=tuple(evidence),
        source=first_source(attention.residual_step, attention.value_step),
        summary=f"{layer} drops its residual: its output is not added to its input, and {why}.",
        effects=("rank_collapse@*", *(AFTER_COLLAPSE if collapsed is not None else ())),
    )
