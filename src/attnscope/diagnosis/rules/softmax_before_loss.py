"""A loss that applies the softmax itself is given probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.diagnosis.rules import Evidence, Examination, Rule, Suspect
from attnscope.diagnosis.rules._evidence import source_from


@dataclass(frozen=True)
class SoftmaxBeforeLoss(Rule):
    """The loss is given probabilities where it wants logits: the softmax is applied twice.

    **What it means** `cross_entropy` and `binary_cross_entropy_with_logits` apply the softmax or sigmoid
    themselves. Given probabilities, they see logits between 0 and 1.

    **Why it matters** The loss cannot come near zero (with two classes it stays above 0.31), gradients are
    small, and the model is never confident.

    **Evidence required** Every row that the loss receives is non-negative and sums to one. Log-probabilities
    do no harm to a cross-entropy and are not reported.

    **When it is a false alarm** None is known.

    **How to confirm** Print `logits.sum(-1)` just before the loss.

    **What to try** Remove the softmax from the model, or use `nll_loss` on its logarithm.
    """

    code: ClassVar[str] = "DAT703"
    needs: ClassVar[tuple[str, ...]] = ("double_softmax_loss",)
    alternatives: ClassVar[tuple[str, ...]] = (
        "a model that returns probabilities, trained with the wrong loss",
    )
    remedies: ClassVar[tuple[str, ...]] = (
        "return logits from the model; apply the softmax only to show probabilities",
        "or take nll_loss of log_softmax",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per loss that is given probabilities."""
        reading = examination.reading("double_softmax_loss")
        suspects = []
        for call in reading.facts.get("violated", ()) if reading is not None else ():
            made = f", made by {call['made_by']}" if call.get("made_by") else ""
            suspects.append(
                Suspect(
                    kind="softmax_before_loss",
                    place="model",
                    evidence=(
                        Evidence(
                            f"every row that {call['op']} receives is a distribution{made}",
                            "double_softmax_loss",
                            float(call["share"]),
                            0.0,
                            True,
                        ),
                    ),
                    confidence=1.0,
                    source=source_from(call.get("source"), call.get("text")),
                    summary=f"{call['op']} is given {call['given']}{made}: the softmax is applied twice.",
                )
            )
        return suspects
