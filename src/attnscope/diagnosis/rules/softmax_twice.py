"""Scores pass through two softmaxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import Attention
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Suspect
from attnscope.diagnosis.rules._evidence import by_layer, first_source, layer_fact, shown
from attnscope.readings import Reading


@dataclass(frozen=True)
class SoftmaxTwice(Rule):
    """Scores pass through a softmax twice, so the attention can hardly prefer any key.

    **What it means** The input of a softmax is already a distribution: its values lie between 0 and 1, and no
    key can get more than e = 2.72 times the weight of another.

    **Why it matters** Attention stays close to uniform however long the model trains.

    **Evidence required** The trace sees two softmaxes between scores and values; or the scores that the
    softmax receives are non-negative and sum to one in every row.

    **When it is a false alarm** None is known: a distribution as scores is no published design.

    **How to confirm** Look at the largest over the smallest weight of a row: it never exceeds 2.72.

    **What to try** Remove one of the two.
    """

    code: ClassVar[str] = "SFT203"
    needs: ClassVar[tuple[str, ...]] = ("row_sums",)
    alternatives: ClassVar[tuple[str, ...]] = ("an attention that refines another's pattern",)
    remedies: ClassVar[tuple[str, ...]] = ("remove one of the two softmaxes",)

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per attention that normalises what is normalised already."""
        reading = examination.reading("row_sums")
        suspects = []
        for attention in examination.anatomy.attentions:
            times = attention.softmax.applications if attention.softmax else 1
            distribution = bool(layer_fact(reading, "scores_are_a_distribution", attention.layer))
            if attention.layer in by_layer(reading) and (times > 1 or distribution):
                suspects.append(_suspect(attention, times, distribution, reading))
        return suspects


def _suspect(attention: Attention, times: int, distribution: bool, reading: Reading | None) -> Suspect:
    layer = f"L{attention.layer}"
    evidence = []
    if times > 1:
        evidence.append(
            Evidence(
                f"the trace sees {times} softmaxes between scores and values",
                "anatomy",
                float(times),
                1.0,
                True,
            )
        )
    if distribution:
        evidence.append(
            Evidence(
                "the scores that the softmax receives sum to one in every row", "row_sums", 1.0, None, True
            )
        )
    ratios = [
        value for value in layer_fact(reading, "widest_ratio", attention.layer) or () if value is not None
    ]
    widest = f": no key gets more than {shown(max(ratios))} times the weight of another" if ratios else ""
    return Suspect(
        kind="softmax_twice",
        place=attention.site("softmax"),
        evidence=tuple(evidence),
        confidence=1.0 if distribution else 0.9,
        source=first_source(attention.softmax, attention.score_step),
        summary=f"{layer} applies a softmax to what is a softmax already{widest}.",
        effects=(
            f"*@{layer}.softmax",
            f"*@{layer}.scores",
            f"*@{layer}.scale",
            f"*@{layer}.mask",
            "future_leak@model",
            "padding_attended@model",
            f"uniform_attention@{layer}*",
        ),
    )
