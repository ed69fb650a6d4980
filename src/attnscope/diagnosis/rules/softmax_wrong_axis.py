"""The softmax runs over another axis than the keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import Attention
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Suspect
from attnscope.diagnosis.rules._evidence import by_layer, first_source, layer_fact, shown


@dataclass(frozen=True)
class SoftmaxWrongAxis(Rule):
    """The softmax runs over the wrong axis, so the weights of a query do not sum to one over the keys.

    **What it means** The weights are normalised over queries, heads or the batch. Each query then takes an
    arbitrary total weight, and what one query, head or example gets depends on the others.

    **Why it matters** Shapes fit and the loss falls, so nothing else tells. With the softmax over queries a
    causal model sees the future; over the batch, examples see each other.

    **Evidence required** The pattern's sums over the keys differ from one beyond rounding, while the sums
    over the named axis are one (directly after the softmax).

    **When it is a false alarm** Slot attention normalises over the queries on purpose; it divides by the sums
    over keys afterwards, then the rows are one and nothing is reported.

    **How to confirm** `pattern.sum(-1)` must be one for every query.

    **What to try** `softmax(scores, dim=-1)` with the keys as the last axis.
    """

    code: ClassVar[str] = "SFT201"
    needs: ClassVar[tuple[str, ...]] = ("row_sums",)
    alternatives: ClassVar[tuple[str, ...]] = ("slot attention without its second normalisation",)
    remedies: ClassVar[tuple[str, ...]] = (
        "take the softmax over the axis of the keys, usually dim=-1",
        "name the axes where the scores are made: [batch, head, query, key]",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per attention that is normalised over another axis."""
        reading = examination.reading("row_sums")
        suspects = []
        for layer, deviations in by_layer(reading).items():
            attention = next(item for item in examination.anatomy.attentions if item.layer == layer)
            tolerance = layer_fact(reading, "tolerance", layer) or 0.0
            directly = layer_fact(reading, "softmax_deviation", layer) or [0.0]
            axes = [axis for axis in layer_fact(reading, "sums_to_one", layer) or () if axis != "keys"]
            named = attention.softmax.over if attention.softmax else "keys"
            axis = named if named in axes else (axes[0] if axes else "")
            if float(deviations.max()) > tolerance and max(directly) > tolerance and axis:
                suspects.append(_suspect(attention, axis, float(deviations.max())))
        return suspects


def _suspect(attention: Attention, axis: str, off: float) -> Suspect:
    layer = f"L{attention.layer}"
    return Suspect(
        kind="softmax_wrong_axis",
        place=attention.site("softmax"),
        evidence=(
            Evidence(f"the sums over the keys miss one by up to {shown(off)}", "row_sums", off, 0.0, True),
            Evidence(f"the sums over the {axis} are one", "row_sums", 0.0, 0.0, True),
        ),
        source=first_source(attention.softmax, attention.score_step),
        summary=f"The softmax of {layer} runs over the {axis}, not the keys: rows miss one by up to {shown(off)}.",
        effects=(
            f"*@{layer}.mask",
            f"*@{layer}.softmax",
            f"*@{layer}.scores",
            f"*@{layer}.scale",
            f"*@{layer}.heads",
            "examples_mixed@*",
            "future_leak@*",
            "padding_attended@*",
            "altered_gradient@*",
            "wrong_cache_position@*",
        ),
    )
