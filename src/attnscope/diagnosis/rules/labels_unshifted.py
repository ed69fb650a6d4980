"""A language model is asked for the token that it reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import Kind
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Suspect
from attnscope.diagnosis.rules._evidence import shown, source_from


@dataclass(frozen=True)
class LabelsUnshifted(Rule):
    """The labels of a language model are not shifted: the target of each position is the token it reads.

    **What it means** The loss is least when the model names its own input (or the token two ahead, when
    labels are shifted twice). Models of Hugging Face shift inside; a loss of one's own must do it.

    **Why it matters** The loss falls to zero at once, because copying is easy, and the model generates
    nothing but repetitions.

    **Evidence required** With the logits replaced by sure predictions of the token 0, 1, 2 places ahead, the
    user's own loss is least at 0 (or 2), in a model that is causal or that is stated to predict the next
    token.

    **When it is a false alarm** Auto-encoders and masked language models are not causal and are not reported.

    **How to confirm** Print the first row of the inputs beside the first row of the targets.

    **What to try** `logits[:, :-1]` against `tokens[:, 1:]`.
    """

    code: ClassVar[str] = "DAT701"
    needs: ClassVar[tuple[str, ...]] = ("label_alignment",)
    alternatives: ClassVar[tuple[str, ...]] = ("an auto-encoder, whose target is its input on purpose",)
    remedies: ClassVar[tuple[str, ...]] = (
        "compare logits[:, :-1] with tokens[:, 1:]",
        "give a Hugging Face model labels equal to its input_ids, and do not shift them yourself",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """At most one suspect."""
        reading = examination.reading("label_alignment")
        if reading is None or not reading.facts.get("language_model") or not _is_language_model(examination):
            return []
        best = int(reading.facts["best"])
        if best == 1:
            return []
        loss, uniform = reading.at(offset=best), float(reading.facts["uniform"])
        what = {
            0: "the token that it reads itself",
            2: "the token two places ahead: the labels are shifted twice",
        }
        named = what.get(best, f"the token {best} places ahead")
        return [
            Suspect(
                kind="labels_unshifted",
                place="data",
                evidence=(
                    Evidence(
                        f"the loss is least ({shown(loss)}; a uniform guess has {shown(uniform)}) when the model names "
                        f"{named}",
                        "label_alignment",
                        float(best),
                        1.0,
                        True,
                    ),
                ),
                confidence=0.95 if examination.expects.get("next_token") else 0.85,
                source=source_from(reading.facts.get("source"), reading.facts.get("text")),
                summary=f"The target of each position is {named}, not the next token.",
                effects=("labels_without_signal@*",),
            )
        ]


def _is_language_model(examination: Examination) -> bool:
    """Whether the next token is what should be predicted: stated, or every attention over itself is causal."""
    if examination.expects.get("next_token") is not None:
        return bool(examination.expects["next_token"])
    selfs = [item for item in examination.anatomy.attentions if item.kind is Kind.SELF]
    return bool(selfs) and all(item.causal_source for item in selfs)
