"""The weights of a query do not sum to one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import Anatomy, Attention
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect
from attnscope.diagnosis.rules._evidence import by_layer, first_source, layer_fact, shown
from attnscope.readings import Reading


@dataclass(frozen=True)
class RowsNotNormalised(Rule):
    """The weights that a query gives to its keys do not sum to one.

    **What it means** There is no softmax, its result is changed before it weighs the values (scaled, shifted,
    multiplied), or a sigmoid or a plain exponential stands in its place.

    **Why it matters** The size of the output then grows with the number of keys, so texts of another length
    fall outside of what the model knows.

    **Evidence required** The sums over the keys of the pattern that weighs the values differ from one beyond
    rounding, no other axis is normalised, and no dropout is active.

    **When it is a false alarm** Talking heads mix the patterns of heads and are not reported. Sigmoid
    attention and attention with a learned sink leave rows below one on purpose. They are reported as
    warnings, with more confidence where other attentions of the same class do have a softmax.

    **How to confirm** `pattern.sum(-1)` just before it is multiplied with the values.

    **What to try** A softmax over the keys as the last step before the product with the values.
    """

    code: ClassVar[str] = "SFT202"
    needs: ClassVar[tuple[str, ...]] = ("row_sums",)
    alternatives: ClassVar[tuple[str, ...]] = (
        "sigmoid attention or a learned sink, on purpose",
        "dropout that is active in eval mode",
        "a mask applied after the softmax",
    )
    remedies: ClassVar[tuple[str, ...]] = (
        "normalise each row over the keys, last, before the product with the values",
        "for sigmoid attention, give its bias the value -log(number of keys)",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per attention whose rows are not normalised and no better-known cause explains."""
        reading = examination.reading("row_sums")
        suspects = []
        for layer, deviations in by_layer(reading).items():
            attention = next(item for item in examination.anatomy.attentions if item.layer == layer)
            tolerance = layer_fact(reading, "tolerance", layer) or 0.0
            off = float(deviations.max())
            other_axes = [axis for axis in layer_fact(reading, "sums_to_one", layer) or () if axis != "keys"]
            masked_after = bool(layer_fact(reading, "cleared_after", layer)) or any(
                step.when == "after_softmax" for step in attention.mask
            )
            dropped = any(step.active for step in attention.dropout)
            explained = masked_after or dropped or (other_axes and _raw(reading, layer) > tolerance)
            if off > tolerance and not explained and not _heads_are_mixed(reading, layer, tolerance):
                siblings = _with_softmax(examination.anatomy, attention)
                suspects.append(_suspect(attention, off, _raw(reading, layer), reading, tolerance, siblings))
        return suspects


def _with_softmax(anatomy: Anatomy, attention: Attention) -> list[str]:
    """The other attentions of the same class that do have a softmax, when this one has something else."""
    if attention.softmax is None or attention.softmax.normaliser == "softmax":
        return []
    return [
        other.name
        for other in anatomy.attentions
        if other.layer != attention.layer
        and (other.module_class, other.form) == (attention.module_class, attention.form)
        and other.softmax is not None
        and other.softmax.normaliser == "softmax"
    ]


def _raw(reading: Reading | None, layer: int) -> float:
    """How far the rows were from one directly after the softmax."""
    directly = layer_fact(reading, "softmax_deviation", layer)
    return max((value for value in directly or () if value is not None), default=0.0)


def _heads_are_mixed(reading: Reading | None, layer: int, tolerance: float) -> bool:
    """Whether heads exchange weights after the softmax (talking heads): each sums to a number of its own."""
    lowest, highest = (layer_fact(reading, name, layer) or [] for name in ("lowest_sum", "highest_sum"))
    if len(lowest) < 2 or _raw(reading, layer) > tolerance or None in (*lowest, *highest):
        return False
    constant = all(
        high - low <= tolerance * max(1.0, abs(high)) for low, high in zip(lowest, highest, strict=True)
    )
    return constant and max(highest) - min(lowest) > tolerance


def _suspect(
    attention: Attention, off: float, raw: float, reading: Reading | None, tolerance: float, siblings: list[str]
) -> Suspect:
    layer = f"L{attention.layer}"
    normaliser = attention.softmax.normaliser if attention.softmax else "softmax"
    highest = max(layer_fact(reading, "highest_sum", attention.layer) or [0.0])
    only_less = highest <= 1 + tolerance
    by_design = normaliser == "sigmoid" or only_less
    if normaliser not in ("softmax", ""):
        why = f"a {normaliser} stands in place of the softmax"
    elif raw > tolerance:
        why = "what weighs the values is not a softmax over the keys"
    else:
        why = "the softmax's result is changed before it weighs the values"
    evidence = [Evidence(f"rows miss one by up to {shown(off)}", "row_sums", off, 0.0, True)]
    counter = []
    if siblings:
        evidence.append(Evidence(f"{', '.join(siblings[:6])}, of the same class, have a softmax", "anatomy"))
    elif by_design:
        counter.append(
            Evidence("sigmoid attention and learned sinks leave rows below one by design", "anatomy")
        )
    return Suspect(
        kind="rows_not_normalised",
        place=attention.site("softmax"),
        evidence=tuple(evidence),
        counter_evidence=tuple(counter),
        confidence=(0.85 if siblings else 0.6) if by_design else 0.95,
        severity=Severity.WARNING if by_design else Severity.ERROR,
        source=first_source(
            attention.value_step if raw <= tolerance else attention.softmax, attention.softmax
        ),
        summary=f"The rows of {layer} do not sum to one (they miss it by up to {shown(off)}): {why}.",
        effects=(f"uniform_attention@{layer}.*", f"saturated_scores@{layer}.*"),
    )
