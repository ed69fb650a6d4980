"""An attention that must be causal sees later positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from attnscope.anatomy.blocks import Attention, MaskStep
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Suspect
from attnscope.diagnosis.rules._evidence import (
    by_layer,
    epsilon,
    expects_causal,
    first_source,
    layer_fact,
    shown,
)

_STRONG_FILL = -1e4  # exp(-1e4) is zero in every precision, whatever scores a healthy model has


@dataclass(frozen=True)
class FutureLeak(Rule):
    """A causal attention sees the future: its mask is missing, off by some positions, or too weak.

    **What it means** The weights on keys after the query's own position must be zero, and they are not.
    Either no causal mask is applied, or its diagonal is shifted, or it adds a number so small that forbidden
    keys keep some weight.

    **Why it matters** In training the model reads the answer from its input, so the loss looks too good; in
    generation the future is not there and quality falls without any error.

    **Evidence required** The attention is meant to be causal: stated in `expects`, or inferred (the loss
    predicts the next token; or the other attentions of the same stack are exactly causal). The weight on
    later keys is above the rounding of the model's precision; or, where no such weight is seen, changing a
    later token changes an earlier output all the same, and first in an attention.

    **When it is a false alarm** The attention is bidirectional on purpose (a prefix model, an encoder beside
    a decoder). State `expects=dict(causal={layer: False})`.

    **How to confirm** Change the last token of a batch and compare the outputs at the earlier positions: they
    must be equal bit for bit.

    **What to try** Apply `torch.ones(n, n).tril().bool()` before the softmax with a fill of
    `torch.finfo(dtype).min` or -inf, or pass `is_causal=True` to `scaled_dot_product_attention`.
    """

    code: ClassVar[str] = "MSK101"
    needs: ClassVar[tuple[str, ...]] = ("future_mass", "future_token")
    alternatives: ClassVar[tuple[str, ...]] = (
        "the attention is bidirectional on purpose: state expects=dict(causal=False)",
        "heads were merged with positions, so that a later position's value lands in an earlier one",
        "the softmax runs over the queries, so that later queries take weight from earlier ones",
    )
    remedies: ClassVar[tuple[str, ...]] = (
        "apply a causal mask before the softmax, filled with -inf or torch.finfo(dtype).min",
        "pass is_causal=True to scaled_dot_product_attention",
        "check the diagonal: torch.tril(ones, diagonal=0) lets a position see itself and no later one",
        "train again: a model that saw the future has not learnt to predict it",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per attention that leaks."""
        mass = examination.reading("future_mass")
        masses = by_layer(mass)
        tolerance = epsilon(examination)
        suspects = []
        for attention in examination.anatomy.attentions:
            if expects_causal(examination, attention) is not True or attention.layer not in masses:
                continue
            seen = float(masses[attention.layer].max())
            if seen <= tolerance:
                continue
            suspects.append(_suspect(examination, attention, seen, mass))
        return suspects or _moved(examination)


def _suspect(examination: Examination, attention: Attention, seen: float, mass: Any) -> Suspect:
    variant, source_steps = _variant(attention, layer_fact(mass, "furthest", attention.layer))
    inferred = "causal" in examination.inferred
    evidence = [
        Evidence(
            f"L{attention.layer} gives {shown(seen)} of its attention to later positions",
            "future_mass",
            seen,
            0.0,
            True,
        )
    ]
    counter = []
    if inferred:
        why = examination.expects.get("causal_because", "the model is trained to predict the next token")
        counter.append(Evidence(f"that it should be causal is inferred: {why}", "anatomy"))
    layer = f"L{attention.layer}"
    return Suspect(
        kind="future_leak",
        place=attention.site("mask"),
        evidence=tuple(evidence),
        counter_evidence=tuple(counter),
        confidence=0.95 if inferred else 1.0,
        source=first_source(*source_steps, attention.score_step),
        summary=f"{layer} sees the future: {variant}, and {shown(seen)} of its attention falls on later positions.",
        effects=("future_leak@model", "wrong_cache_position@*"),
        score=seen,
    )


def _moved(examination: Examination) -> list[Suspect]:
    """Where no weight on the future is seen, but what should not know it moves with it."""
    reading = examination.reading("future_token")
    causal = [
        item for item in examination.anatomy.attentions if expects_causal(examination, item) is True
    ]
    if reading is None or not reading.facts.get("output_violated") or reading.facts.get("outside_attention"):
        return []
    first = next((item for item in causal if item.layer == reading.facts.get("first_layer")), None)
    if first is None:
        return []
    moved = float(reading.facts.get("moved", float("nan")))
    said = f"changing a later token moves an earlier output by {shown(moved)}"
    return [
        Suspect(
            kind="future_leak",
            place=f"L{first.layer}.mask",
            evidence=(Evidence(said, "future_token", moved, 0.0, True),),
            confidence=0.9,
            source=first_source(*first.mask, first.softmax, first.score_step),
            summary=f"The model sees the future: {said}, first in L{first.layer}.",
            effects=("wrong_cache_position@*",),
        )
    ]


def _variant(attention: Attention, furthest: Any) -> tuple[str, tuple[MaskStep, ...]]:
    """What is wrong with the mask, and the steps that hold the line."""
    before = [step for step in attention.mask if step.when == "before_softmax"]
    if not before:
        return "no causal mask is applied", ()
    weak = [step for step in before if step.fill is not None and _STRONG_FILL < step.fill < 0]
    if weak:
        return f"its mask fills with {shown(weak[0].fill or 0.0)}, which is too weak to forbid", tuple(weak)
    if isinstance(furthest, int | float) and 0 < furthest < attention.n_keys - 1:
        ahead = int(furthest)
        return f"its mask is off by {ahead}: it allows {ahead} position{'s' * (ahead > 1)} ahead", tuple(
            before
        )
    return "its mask does not forbid the future", tuple(before)
