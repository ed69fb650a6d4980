"""A scoring network has lost its nonlinearity in one layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import Attention
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect
from attnscope.diagnosis.rules._evidence import first_source, lost_activation


@dataclass(frozen=True)
class ScoresLinear(Rule):
    """One attention scores its positions with a linear map, where others of the same class have an activation.

    **What it means** Additive attention scores a position by u . tanh(W h + b). Here nothing stands between W h + b
    and u: two linear maps in a row, which are one.

    **Why it matters** The scores have no bound any more and grow with the weights; the layer can only prefer
    one direction of its input.

    **Evidence required** The trace sees no nonlinearity between the hidden states and the scores of a learned
    query, although every other attention of the same module class has one.

    **When it is a false alarm** A class that scores linearly in one place by a setting.

    **How to confirm** Compare the lines that make the scores in both places.

    **What to try** Put the activation back.
    """

    code: ClassVar[str] = "SFT221"
    severity: ClassVar[Severity] = Severity.WARNING
    alternatives: ClassVar[tuple[str, ...]] = ("a setting that makes this attention linear, on purpose",)
    remedies: ClassVar[tuple[str, ...]] = ("put the activation between the two maps of the scoring network back",)

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per learned query without an activation whose siblings have one."""
        suspects = []
        for attention in examination.anatomy.attentions:
            others = lost_activation(examination.anatomy, attention)
            if others:
                suspects.append(_suspect(attention, others))
        return suspects


def _suspect(attention: Attention, others: list[Attention]) -> Suspect:
    layer = attention.name
    names = ", ".join(other.name for other in others[:6])
    verb = "has" if len(others) == 1 else "have"
    return Suspect(
        kind="scores_linear",
        place=attention.site("scores"),
        evidence=(
            Evidence(f"no nonlinearity stands between hidden states and scores of {layer}", "anatomy", exact=True),
            Evidence(f"{names}, of the same class, {verb} one", "anatomy"),
        ),
        confidence=0.9,
        source=first_source(attention.score_step, attention.softmax),
        summary=f"The scoring network of {layer} has no activation, and that of {names} {verb} one.",
        effects=(f"saturated_scores@{layer}.*",),
    )
