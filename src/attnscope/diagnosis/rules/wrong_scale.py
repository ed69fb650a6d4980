"""Scores are scaled by another factor than 1/sqrt(d_head)."""

from __future__ import annotations

from dataclasses import dataclass
from math import isclose, sqrt
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from attnscope.anatomy.blocks import Anatomy, Attention, Kind
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect
from attnscope.diagnosis.rules._evidence import by_layer, first_source, layer_fact, lost_activation, peers_of, shown

_SAME = 0.02  # two factors that agree this closely are the same choice
_SATURATING = (
    4.0  # nats^2: with this variance half of the keys of a Gaussian row keep a tenth of their weight
)
_ODD_ONE_OUT = 0.95
_TINY = 0.1  # a factor this far below 1/d_head is no scale that somebody chose
_USABLE = (0.01, 30.0)  # nats^2: trained heads of healthy models
_FLAT = 1e-3  # nats^2: no key gets five per cent more weight than another


@dataclass(frozen=True)
class WrongScale(Rule):
    """The scores are scaled by another factor than 1/sqrt(d_head): not at all, twice, or by another width.

    **What it means** A query-key product of unit-variance vectors has variance d_head; dividing by
    sqrt(d_head) brings it to one. Without it the softmax saturates as heads grow wider; with twice it the
    pattern stays close to uniform.

    **Why it matters** A saturated softmax passes almost no gradient to queries and keys; a flat one cannot
    choose.

    **Evidence required** The trace sees a factor other than 1/sqrt(d_head), and one of: the other attentions
    of the same stack use 1/sqrt(d_head); 1/sqrt(d_head) is applied twice, in two steps; the factor is that of
    another width (d_model, the number of heads or of keys), or multiplies where it should divide; there is no
    scale, nothing in the weights stands for it, and the scores vary by more than the 1 nats^2 that the scale
    is there to keep; or the scores show the harm (their variance saturates the softmax, or leaves it flat).

    **When it is a false alarm** T5 folds the scale into its initialisation and muP divides by d_head in one
    step: neither is reported, and neither are learned scales, nor a published architecture that does
    without (GPT-Neo, from an installed package). One's own model that was trained without scale and copes is.

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
            if lost_activation(examination.anatomy, attention):
                continue  # the scale of a scoring network whose activation is missing is not the mistake
            if scale is None or expected is None or isclose(abs(scale), expected, rel_tol=_SAME):
                continue
            suspect = _suspect(examination, attention, scale, expected)
            suspects += [suspect] if suspect is not None else []
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


def _suspect(examination: Examination, attention: Attention, scale: float, expected: float) -> Suspect | None:
    """The suspect, or None where the factor looks like a choice and does no harm."""
    layer = f"L{attention.layer}"
    variance = by_layer(examination.reading("score_variance")).get(attention.layer)
    name, weight = _reason(examination, attention, scale, variance)
    harm = _harm(scale / expected, variance)
    if weight == 0 and (not harm or scale < _TINY * expected**2):
        return None  # a choice that does no harm; or no scale at all but what makes the attention uniform
    evidence = [
        Evidence(f"{layer} multiplies its scores by {shown(scale)}", "anatomy", scale, expected, True)
    ]
    if len(attention.scale_factors) > 1:
        factors = " and ".join(shown(factor) for factor in attention.scale_factors)
        evidence.append(
            Evidence(f"in {len(attention.scale_factors)} steps: {factors}", "anatomy", exact=True)
        )
    if weight >= _ODD_ONE_OUT:
        evidence.append(
            Evidence("the other attentions of its stack use 1/sqrt(d_head)", "anatomy", exact=True)
        )
    counter = []
    if variance is not None:
        median = float(np.median(variance))
        if harm:
            evidence.append(Evidence(harm, "score_variance", median))
        elif _USABLE[0] < median < _USABLE[1]:
            counter.append(
                Evidence(f"the scores have a usable variance of {shown(median)}", "score_variance", median)
            )
    return Suspect(
        kind="wrong_scale",
        place=attention.site("scale"),
        evidence=tuple(evidence),
        counter_evidence=tuple(counter),
        confidence=max(weight, 0.8 if harm else 0.0),
        severity=Severity.ERROR if weight >= _ODD_ONE_OUT or (harm and weight) else Severity.WARNING,
        source=first_source(attention.scale_step, attention.score_step, attention.softmax),
        summary=f"{layer} scales its scores by {shown(scale)}, {name}; 1/sqrt(d_head) is {shown(expected)}.",
        effects=(
            f"saturated_scores@{layer}.*",
            f"uniform_attention@{layer}.*",
            f"half_precision_overflow@{layer}.*",
            f"wrong_cache_position@{layer}.*",  # a factor made from the number of keys differs while decoding
        ),
    )


def _reason(
    examination: Examination, attention: Attention, scale: float, variance: npt.NDArray[np.float64] | None
) -> tuple[str, float]:
    """What the factor is, in words, and how sure that makes one of a mistake; 0 for a choice."""
    name, weight = _name(examination.anatomy, attention, scale)
    if _peers_agree(examination, attention):
        return name, _ODD_ONE_OUT
    if _twice(attention):
        return "which applies 1/sqrt(d_head) twice", 0.8
    if isclose(abs(scale), 1.0, rel_tol=_SAME):
        usable = variance is None or float(np.median(variance)) <= 1.0
        absorbed = bool(attention.scale_note) or usable or _published(attention)
        return name, 0.0 if absorbed else 0.6
    return name, weight


def _published(attention: Attention) -> bool:
    """Whether the scores are made in an installed package: a published architecture does without a scale on purpose."""
    source = first_source(attention.score_step, attention.softmax)
    return source is not None and any(part in source.file for part in ("/site-packages/", "/dist-packages/"))


def _twice(attention: Attention) -> bool:
    """Whether 1/sqrt(d_head) is among the factors more than once."""
    expected = attention.expected_scale or 0.0
    return sum(isclose(abs(factor), expected, rel_tol=_SAME) for factor in attention.scale_factors) > 1


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


def _name(anatomy: Anatomy, attention: Attention, scale: float) -> tuple[str, float]:
    """What the factor is, in words, and how sure that makes one of a mistake; 0 for a factor that may be meant."""
    d_head, n_heads = attention.d_head or 1, attention.n_heads
    d_model = d_head * n_heads
    several = (
        n_heads > 1 and attention.kind is not Kind.LEARNED_QUERY
    )  # set transformers use d_model on purpose
    candidates = {
        "that is, not at all": (1.0, 0.0),
        "which is 1/d_head": (1 / d_head, 0.0),
        "which multiplies by sqrt(d_head) instead of dividing": (sqrt(d_head), 0.85),
        "which is 1/sqrt(d_model): the width of all heads together": (
            1 / sqrt(d_model),
            0.7 if several else 0.0,
        ),
        "which is 1/sqrt(n_heads)": (1 / sqrt(n_heads), 0.7 if several else 0.0),
        "which is 1/sqrt(number of keys)": (1 / sqrt(max(attention.n_keys, 1)), 0.7),
        "which is 1/d_model": (1 / d_model, 0.6),
    }
    for name, (value, weight) in candidates.items():
        if isclose(abs(scale), value, rel_tol=_SAME):
            return name, weight
    return "which is no width of this attention", 0.0
