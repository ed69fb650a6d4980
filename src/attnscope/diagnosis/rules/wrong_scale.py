"""Scores are scaled by another factor than 1/sqrt(d_head)."""

from __future__ import annotations

from dataclasses import dataclass
from math import isclose, sqrt
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from attnscope.anatomy.blocks import Attention
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect
from attnscope.diagnosis.rules._evidence import by_layer, first_source, layer_fact, peers_of, shown

_SAME = 0.02  # two factors that agree this closely are the same choice
_SATURATING = (
    4.0  # nats^2: with this variance half of the keys of a Gaussian row keep a tenth of their weight
)
_FLAT = 1e-3  # nats^2: no key gets five per cent more weight than another


@dataclass(frozen=True)
class WrongScale(Rule):
    """The scores are scaled by another factor than 1/sqrt(d_head): not at all, twice, or by another width.

    **What it means** A query-key product of unit-variance vectors has variance d_head; dividing by
    sqrt(d_head) brings it to one. Without it the softmax saturates as heads grow wider; with twice it the
    pattern stays close to uniform.

    **Why it matters** A saturated softmax passes almost no gradient to queries and keys; a flat one cannot
    choose.

    **Evidence required** The trace sees a factor other than 1/sqrt(d_head). Alone this is a note: several
    published models choose another factor. It becomes a warning or an error when the other attentions of the
    same stack use 1/sqrt(d_head), when the factor is that of another width, or when the scores measured on
    the batch show the harm (their variance saturates the softmax, or leaves it flat).

    **When it is a false alarm** T5 and GPT-Neo have no scale and fold it into the initialisation; muP divides
    by d_head; models with normalised queries and keys learn it. They are notes at most.

    **How to confirm** `score_variance` is near one for the right factor at initialisation.

    **What to try** `scores = query @ key.transpose(-2, -1) / math.sqrt(d_head)`, once, with the head's width.
    """

    code: ClassVar[str] = "SFT204"
    severity: ClassVar[Severity] = Severity.WARNING
    needs: ClassVar[tuple[str, ...]] = ("measured_scale", "score_variance", "largest_score")
    alternatives: ClassVar[tuple[str, ...]] = (
        "the factor is folded into the initialisation of the queries (T5)",
        "muP divides by d_head on purpose",
        "queries and keys are normalised and the factor is learned",
    )
    remedies: ClassVar[tuple[str, ...]] = (
        "divide the scores by sqrt(d_head), once, where d_head is the width of one head",
        "scaled_dot_product_attention already scales: do not scale its queries as well",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per attention whose factor is not 1/sqrt(d_head)."""
        suspects = []
        for attention in examination.anatomy.attentions:
            scale, expected = _scale_of(examination, attention), attention.expected_scale
            if scale is None or expected is None or isclose(abs(scale), expected, rel_tol=_SAME):
                continue
            suspects.append(_suspect(examination, attention, scale, expected))
        return suspects


def _scale_of(examination: Examination, attention: Attention) -> float | None:
    """The factor that the trace saw, else the slope of the scores on the products when they are nothing more."""
    if attention.scale is not None:
        return attention.scale
    reading = examination.reading("measured_scale")
    slopes = [value for value in layer_fact(reading, "slope", attention.layer) or () if value is not None]
    fits = [value for value in layer_fact(reading, "r2", attention.layer) or () if value is not None]
    if slopes and fits and min(fits) > 1 - 1e-4 and max(slopes) - min(slopes) <= _SAME * abs(slopes[0]):
        return float(sum(slopes) / len(slopes))
    return None


def _suspect(examination: Examination, attention: Attention, scale: float, expected: float) -> Suspect:
    layer = f"L{attention.layer}"
    variance = by_layer(examination.reading("score_variance")).get(attention.layer)
    evidence = [
        Evidence(f"{layer} multiplies its scores by {shown(scale)}", "anatomy", scale, expected, True)
    ]
    counter = []
    odd_one_out = _peers_agree(examination, attention)
    harm = _harm(scale / expected, variance)
    name, known_width = _name(attention, scale)
    if odd_one_out:
        evidence.append(
            Evidence("the other attentions of its stack use 1/sqrt(d_head)", "anatomy", exact=True)
        )
    if harm:
        evidence.append(
            Evidence(harm, "score_variance", float(variance.max()) if variance is not None else None)
        )
    if attention.scale_note:
        counter.append(Evidence(attention.scale_note, "anatomy"))
    if variance is not None and not harm:
        counter.append(
            Evidence(
                f"the scores have a usable variance of {shown(float(variance.mean()))}",
                "score_variance",
                float(variance.mean()),
            )
        )
    severity, confidence = _weight(odd_one_out, bool(harm), known_width, bool(attention.scale_note))
    return Suspect(
        kind="wrong_scale",
        place=attention.site("scale"),
        evidence=tuple(evidence),
        counter_evidence=tuple(counter),
        confidence=confidence,
        severity=severity,
        source=first_source(attention.scale_step, attention.score_step, attention.softmax),
        summary=f"{layer} scales its scores by {shown(scale)}, {name}; 1/sqrt(d_head) is {shown(expected)}.",
        effects=(
            f"saturated_scores@{layer}.*",
            f"uniform_attention@{layer}.*",
            f"half_precision_overflow@{layer}.*",
        ),
    )


def _weight(odd_one_out: bool, harm: bool, known_width: bool, explained: bool) -> tuple[Severity, float]:
    if odd_one_out:
        return Severity.ERROR, 0.95
    if explained:
        return Severity.NOTE, 0.3
    if harm:
        return Severity.ERROR if known_width else Severity.WARNING, 0.85
    if known_width:
        return Severity.WARNING, 0.6
    return Severity.NOTE, 0.4


def _peers_agree(examination: Examination, attention: Attention) -> bool:
    """Whether the same code, elsewhere in the model, uses 1/sqrt(d_head)."""
    right = [
        other
        for other in peers_of(examination.anatomy, attention)
        if other.scale is not None
        and other.expected_scale is not None
        and isclose(abs(other.scale), other.expected_scale, rel_tol=_SAME)
    ]
    return len(right) >= max(1, len(peers_of(examination.anatomy, attention)) / 2)


def _harm(ratio: float, variance: npt.NDArray[np.float64] | None) -> str:
    """What the wrong factor does to the scores measured on this batch; empty when they are usable."""
    if variance is None:
        return ""
    median, largest = float(np.median(variance)), float(variance.max())
    if ratio > 1 and median > _SATURATING * ratio:
        return f"the scores of the median head vary by {shown(median)} nats^2, which saturates the softmax"
    if ratio < 1 and largest < _FLAT:
        return f"the scores vary by at most {shown(largest)} nats^2, which leaves the pattern flat"
    return ""


def _name(attention: Attention, scale: float) -> tuple[str, bool]:
    """What the factor is, in words, and whether it is the mistake that the words say."""
    d_head = attention.d_head or 1
    d_model = d_head * attention.n_heads
    candidates = {
        "that is, not at all": (1.0, False),
        "which is 1/d_head: scaled twice": (1 / d_head, True),
        "which multiplies by sqrt(d_head) instead of dividing": (sqrt(d_head), True),
        "which is 1/sqrt(d_model): the width of all heads together": (
            1 / sqrt(d_model),
            attention.n_heads > 1,
        ),
        "which is 1/sqrt(n_heads)": (1 / sqrt(attention.n_heads), attention.n_heads > 1),
        "which is 1/sqrt(number of keys)": (1 / sqrt(max(attention.n_keys, 1)), True),
        "which is 1/d_model": (1 / d_model, True),
    }
    for name, (value, mistake) in candidates.items():
        if isclose(abs(scale), value, rel_tol=_SAME):
            return name, mistake
    return "which is no width of this attention", False
