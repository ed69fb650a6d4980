"""Scores so large that the softmax picks one key and passes no gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from attnscope.anatomy.blocks import Attention
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect
from attnscope.diagnosis.rules._evidence import by_layer, first_source, layer_fact, shown
from attnscope.diagnosis.rules._healthy import healthy
from attnscope.readings import Reading

PUBLISHED = 100.0  # QK-Clip's bound on a head's largest score (Kimi K2, arXiv:2507.20534)
_ONE_HOT = 0.5  # this share of rows picks one key


@dataclass(frozen=True)
class SaturatedScores(Rule):
    """The scores of a layer are so large that its softmax saturates: the entropy of its attention collapses.

    **What it means** The gaps between scores are so wide that nearly all weight of a query falls on one key.
    The softmax then passes almost no gradient to queries and keys, so the layer cannot change its mind.

    **Why it matters** Entropy collapse precedes loss spikes and divergence (Zhai et al. 2023); the layer is
    stuck with whatever it attends to by accident.

    **Evidence required** In most heads of the layer the scores of a row spread wider than the published bound
    of 100 and than any healthy model that was measured, and most rows put all their weight on one key.

    **When it is a false alarm** Single sharp heads and attention sinks are normal and not reported.

    **How to confirm** The gradient of the layer's queries and keys is orders of magnitude below its values'.

    **What to try** Normalise queries and keys, lower the learning rate of W_Q and W_K, check the scale.
    """

    code: ClassVar[str] = "SFT207"
    severity: ClassVar[Severity] = Severity.WARNING
    needs: ClassVar[tuple[str, ...]] = ("largest_score", "attention_entropy")
    alternatives: ClassVar[tuple[str, ...]] = (
        "the scale is missing",
        "the normalisation before the attention has a huge gain",
        "the learning rate of queries and keys is too high",
    )
    remedies: ClassVar[tuple[str, ...]] = (
        "check the scale and the gain of the normalisation before this attention",
        "normalise queries and keys (QK-norm), or clip the heads' weights (QK-Clip)",
        "lower the learning rate, or lengthen the warm-up",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per layer that is saturated."""
        reading = examination.reading("largest_score")
        suspects = []
        for attention in examination.anatomy.attentions:
            widest = _heads(reading, "widest_row", attention.layer)
            one_hot = _heads(reading, "saturated_share", attention.layer)
            if widest.size == 0 or one_hot.size == 0:
                continue
            bound = max(PUBLISHED, healthy("widest_row").highest)
            if float(np.median(widest)) > bound and float(np.median(one_hot)) > _ONE_HOT:
                suspects.append(_suspect(examination, attention, widest, one_hot, bound))
        return suspects


def _heads(reading: Reading | None, name: str, layer: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    values = [value for value in layer_fact(reading, name, layer) or () if value is not None]
    return np.asarray(values, dtype=np.float64)


def _suspect(
    examination: Examination,
    attention: Attention,
    widest: np.ndarray[tuple[int], np.dtype[np.float64]],
    one_hot: np.ndarray[tuple[int], np.dtype[np.float64]],
    bound: float,
) -> Suspect:
    layer = f"L{attention.layer}"
    median, share = float(np.median(widest)), float(np.median(one_hot))
    evidence = [
        Evidence(
            f"scores of one row of {layer} spread over {shown(median)} nats in the median head",
            "largest_score",
            median,
            bound,
        ),
        Evidence(
            f"{shown(100 * share)} % of its rows put all their weight on one key",
            "largest_score",
            share,
            _ONE_HOT,
        ),
    ]
    entropy = by_layer(examination.reading("attention_entropy")).get(attention.layer)
    if entropy is not None:
        mean = float(entropy.mean())
        evidence.append(
            Evidence(f"its entropy is {shown(mean)} of the largest possible", "attention_entropy", mean)
        )
    return Suspect(
        kind="saturated_scores",
        place=attention.site("scores"),
        evidence=tuple(evidence),
        confidence=0.85,
        source=first_source(attention.score_step, attention.softmax),
        score=median,
        summary=f"The scores of {layer} saturate its softmax: they spread over {shown(median)} nats, and "
        f"{shown(100 * share)} % of the rows look at one key only.",
        effects=(f"half_precision_overflow@{layer}.*",),
    )
