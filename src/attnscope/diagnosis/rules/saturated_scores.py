"""Scores so large that the softmax picks one key and passes no gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import Attention
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect
from attnscope.diagnosis.rules._evidence import by_layer, first_source, layer_fact, shown
from attnscope.diagnosis.rules._healthy import healthy

PUBLISHED = 100.0  # QK-Clip's bound on a head's largest score (Kimi K2, arXiv:2507.20534)
_ONE_HOT = 0.5  # this share of rows picks one key


@dataclass(frozen=True)
class SaturatedScores(Rule):
    """The scores of a layer are so large that its softmax saturates: the entropy of its attention collapses.

    **What it means** The gaps between scores are so wide that nearly all weight of a query falls on one key.
    The softmax then passes almost no gradient to queries and keys, so the layer cannot change its mind.

    **Why it matters** Entropy collapse precedes loss spikes and divergence (Zhai et al. 2023); the layer is
    stuck with whatever it attends to by accident.

    **Evidence required** The scores of a row of some head spread wider than the published bound
    of 100 and than any healthy model that was measured, and most of its rows put all their weight on one key.

    **When it is a false alarm** Sharp heads and attention sinks within those bounds are normal and not
    reported.

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
        """One suspect per layer with saturated heads."""
        reading = examination.reading("largest_score")
        bound = max(PUBLISHED, healthy("widest_row").highest)
        suspects = []
        for attention in examination.anatomy.attentions:
            widest = layer_fact(reading, "widest_row", attention.layer) or []
            one_hot = layer_fact(reading, "saturated_share", attention.layer) or []
            heads = [
                head
                for head, (spread, share) in enumerate(zip(widest, one_hot, strict=True))
                if spread is not None and share is not None and spread > bound and share > _ONE_HOT
            ]
            if heads:
                worst = max(heads, key=lambda head: float(widest[head]))
                numbers = float(widest[worst]), float(one_hot[worst])
                suspects.append(_suspect(examination, attention, heads, worst, *numbers, bound))
        return suspects


def _suspect(
    examination: Examination,
    attention: Attention,
    heads: list[int],
    worst: int,
    widest: float,
    one_hot: float,
    bound: float,
) -> Suspect:
    layer = f"L{attention.layer}"
    most = 2 * len(heads) >= attention.n_heads
    evidence = [
        Evidence(
            f"scores of one row of head {worst} spread over {shown(widest)} nats",
            "largest_score",
            widest,
            bound,
        ),
        Evidence(
            f"{shown(100 * one_hot)} % of its rows put all their weight on one key",
            "largest_score",
            one_hot,
            _ONE_HOT,
        ),
        Evidence(
            f"{len(heads)} of the {attention.n_heads} heads of {layer} are so",
            "largest_score",
            float(len(heads)),
            0.0,
        ),
    ]
    entropy = by_layer(examination.reading("attention_entropy")).get(attention.layer)
    if entropy is not None and worst < entropy.size:
        mean = float(entropy[worst])
        evidence.append(
            Evidence(f"its entropy is {shown(mean)} of the largest possible", "attention_entropy", mean)
        )
    who = f"{layer} saturates" if most else f"Head {worst} of {layer} saturates"
    return Suspect(
        kind="saturated_scores",
        place=attention.site("scores"),
        evidence=tuple(evidence),
        confidence=0.85 if most else 0.75,
        source=first_source(attention.score_step, attention.softmax),
        score=widest,
        summary=f"{who} its softmax: scores of one row spread over {shown(widest)} nats, and {shown(100 * one_hot)} % "
        "of its rows look at one key only.",
        effects=(f"half_precision_overflow@{layer}.*",),
    )
