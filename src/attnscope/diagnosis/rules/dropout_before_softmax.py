"""Dropout acts on the scores, before the softmax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect
from attnscope.diagnosis.rules._evidence import first_source, shown


@dataclass(frozen=True)
class DropoutBeforeSoftmax(Rule):
    """Dropout acts on the scores, before the softmax, instead of on the pattern.

    **What it means** A dropped score becomes 0, which is no weight of zero: the key keeps exp(0) of it, often
    more than before, and a key that the mask forbids may come back.

    **Why it matters** Training then attends to keys at random, and what training and evaluation compute
    differs by more than a factor.

    **Evidence required** The trace sees a dropout between the query-key product and the softmax.

    **When it is a false alarm** DropKey drops keys before the softmax on purpose, by filling them with -inf.

    **How to confirm** Run the attention in train mode with a dropout rate of 1: the pattern is uniform.

    **What to try** Move the dropout behind the softmax.
    """

    code: ClassVar[str] = "SFT205"
    severity: ClassVar[Severity] = Severity.WARNING
    alternatives: ClassVar[tuple[str, ...]] = ("DropKey, which fills dropped scores with -inf",)
    remedies: ClassVar[tuple[str, ...]] = (
        "apply dropout to the pattern, after the softmax",
        "to drop keys on purpose, fill their scores with -inf",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per attention that drops scores."""
        suspects = []
        for attention in examination.anatomy.attentions:
            steps = [step for step in attention.dropout if step.where == "scores" and step.rate != 0.0]
            if not steps:
                continue
            rate = "" if steps[0].rate is None else f" with rate {shown(steps[0].rate)}"
            suspects.append(
                Suspect(
                    kind="dropout_before_softmax",
                    place=attention.site("dropout"),
                    evidence=(
                        Evidence(f"a dropout{rate} acts on the scores", "anatomy", steps[0].rate, exact=True),
                    ),
                    confidence=0.95,
                    source=first_source(*steps),
                    summary=f"L{attention.layer} drops scores{rate} before the softmax instead of weights after it.",
                )
            )
        return suspects
