"""Dropout is active in eval mode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import Source
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Suspect
from attnscope.diagnosis.rules._evidence import layer_of_module, shown, source_from


@dataclass(frozen=True)
class DropoutInEval(Rule):
    """A dropout stays active in eval mode, so the same input gives another output each time.

    **What it means** `F.dropout(x, p)` is active unless it is told `training=self.training`;
    `scaled_dot_product_attention(dropout_p=...)` always is.

    **Why it matters** Validation, generation and every measurement carry its noise, and the model looks worse
    than it is.

    **Evidence required** In eval mode the trace sees a dropout at work inside an attention; or the output
    changes with the random seed and with nothing else.

    **When it is a false alarm** Monte Carlo dropout keeps it on purpose.

    **How to confirm** Run the same batch twice in eval mode and compare bit for bit.

    **What to try** `F.dropout(x, p, training=self.training)`, or an `nn.Dropout` module.
    """

    code: ClassVar[str] = "SFT206"
    needs: ClassVar[tuple[str, ...]] = ("dropout_seed",)
    alternatives: ClassVar[tuple[str, ...]] = (
        "Monte Carlo dropout, on purpose",
        "another random operation in the forward pass",
    )
    remedies: ClassVar[tuple[str, ...]] = (
        "pass training=self.training to F.dropout",
        "pass dropout_p=self.p if self.training else 0.0 to scaled_dot_product_attention",
        "use an nn.Dropout module, which eval() switches off",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per dropout that is active in eval mode."""
        suspects = [
            _suspect(attention.site("dropout"), f"L{attention.layer}", step.rate, step.source, "anatomy")
            for attention in examination.anatomy.attentions
            for step in attention.dropout
            if step.active and step.rate != 0.0 and _stays_active(examination, attention.name)
        ]
        reading = examination.reading("dropout_seed")
        for step in reading.facts.get("random_steps", ()) if reading is not None else ():
            if step.get("rate") is None or _eval_movement(examination) == 0.0:
                continue
            attention = layer_of_module(examination.anatomy, str(step.get("module", "")))
            place = attention.site("dropout") if attention is not None else "model"
            if any(found.place == place for found in suspects):
                continue
            where = str(step.get("module") or "the model")
            source = source_from(step.get("source"), step.get("text"))
            suspects.append(_suspect(place, where, float(step["rate"]), source, "dropout_seed"))
        return suspects


def _eval_movement(examination: Examination) -> float | None:
    """How far the output moves in eval mode when only the seed changes; None when nobody looked."""
    reading = examination.reading("dropout_seed")
    return None if reading is None else reading.at(mode="eval")


def _stays_active(examination: Examination, layer: str) -> bool:
    """Whether a dropout that the trace saw is there in eval mode, too: the trace may have watched training.

    It is not where the seed moves nothing in eval mode, or where what draws numbers then is no dropout or is in
    other layers.
    """
    reading = examination.reading("dropout_seed")
    drawn = list(reading.facts.get("random_steps", ())) if reading is not None else []
    if _eval_movement(examination) == 0.0:
        return False
    dropouts = [step for step in drawn if step.get("rate") is not None]
    layers = [layer_of_module(examination.anatomy, str(step.get("module", ""))) for step in dropouts]
    known = {attention.name for attention in layers if attention is not None}
    return not drawn or (bool(dropouts) and (None in layers or layer in known))


def _suspect(place: str, where: str, rate: float | None, source: Source | None, lens: str) -> Suspect:
    shown_rate = "" if rate is None else f" of rate {shown(rate)}"
    layer = place.partition(".")[0]
    return Suspect(
        kind="dropout_in_eval",
        place=place,
        evidence=(
            Evidence(f"a dropout{shown_rate} in {where} is active in eval mode", lens, rate, 0.0, True),
        ),
        confidence=1.0,
        source=source,
        summary=f"A dropout{shown_rate} in {where} stays active in eval mode.",
        effects=(
            f"rows_not_normalised@{layer}.*",
            f"dropout_mismatch@{layer}.*",
            "not_deterministic@*",
            "altered_gradient@*",
            "wrong_cache_position@*",
            "examples_mixed@model",
            "future_leak@model",
            "padding_attended@model",
        ),
    )
