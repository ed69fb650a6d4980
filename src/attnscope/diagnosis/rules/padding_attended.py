"""Real tokens attend to padding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import Attention
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Suspect
from attnscope.diagnosis.rules._evidence import by_layer, epsilon, first_source, layer_fact, shown

INVERTED = 0.999  # above this share the mask lets padding through and nothing else: another rule's case


@dataclass(frozen=True)
class PaddingAttended(Rule):
    """Real tokens attend to padding: the padding mask is missing, not passed on, or too weak.

    **What it means** Some of the weight of real queries falls on keys that are padding, so what a text means
    depends on how long its neighbours in the batch are.

    **Why it matters** Results change with batch size and batch order, short texts suffer most, and the loss
    often looks normal because the model learns around it.

    **Evidence required** The padding is known: a mask in the batch, `expects`, or the `padding_idx` of the
    embedding. The weight of real queries on padded keys is above the rounding of the model's precision. Where
    it can be done, changing the padded tokens changes the output at real ones.

    **When it is a false alarm** What was taken for padding is a token with a meaning. State
    `expects=dict(padding_mask=...)` or `padding_token`.

    **How to confirm** Run one text alone and in a batch with a longer one: the outputs must agree.

    **What to try** Pass the mask down to every attention and add it before the softmax with a fill of
    `torch.finfo(dtype).min`.
    """

    code: ClassVar[str] = "MSK102"
    needs: ClassVar[tuple[str, ...]] = ("padding_mass", "padded_token")
    alternatives: ClassVar[tuple[str, ...]] = (
        "the token taken for padding has a meaning: state expects=dict(padding_token=...)",
        "the mask is inverted or has the shape of another axis",
    )
    remedies: ClassVar[tuple[str, ...]] = (
        "pass the padding mask to this attention and apply it before the softmax",
        "fill with torch.finfo(dtype).min or -inf, not with a number near the size of the scores",
        "until then, batch texts of equal length",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per attention whose real queries see padding."""
        reading = examination.reading("padding_mass")
        suspects = []
        for layer, masses in by_layer(reading).items():
            attention = next(item for item in examination.anatomy.attentions if item.layer == layer)
            seen = float(masses.max())
            if epsilon(examination) < seen < INVERTED:
                share = layer_fact(reading, "share_of_keys", layer)
                suspects.append(_suspect(examination, attention, seen, share))
        return suspects


def _suspect(examination: Examination, attention: Attention, seen: float, share: float | None) -> Suspect:
    layer = f"L{attention.layer}"
    before = [step for step in attention.mask if step.when == "before_softmax"]
    weak = [step for step in before if step.fill is not None and -1e4 < step.fill < 0]
    if weak:
        why = f"the mask fills with {shown(weak[0].fill or 0.0)}, which is too weak to forbid"
    elif before:
        why = "the mask that is applied does not cover the padding"
    else:
        why = "no mask is applied"
    guessed = "padding_token" in examination.inferred
    counter = []
    if guessed:
        counter.append(Evidence("which token pads is inferred from the batch", "anatomy"))
    expected = "" if share is None else f" ({shown(share)} of the keys are padding)"
    return Suspect(
        kind="padding_attended",
        place=attention.site("mask"),
        evidence=(
            Evidence(
                f"real tokens of {layer} give {shown(seen)} of their attention to padding{expected}",
                "padding_mass",
                seen,
                0.0,
                True,
            ),
        ),
        counter_evidence=tuple(counter),
        confidence=0.8 if guessed else 1.0,
        source=first_source(*(weak or before), attention.score_step),
        summary=f"{layer} attends to padding: {why}, and {shown(seen)} of the attention of real tokens falls on it.",
        effects=("padding_attended@model",),
        score=seen,
    )
