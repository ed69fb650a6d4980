"""Weight decay that takes queries and keys away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from attnscope.anatomy.blocks import Attention
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect
from attnscope.diagnosis.rules._evidence import by_block, by_layer, first_source, layer_fact, shown
from attnscope.diagnosis.rules._healthy import healthy

_FOLDS = 2.0  # a product of two weights without gradient is then at exp(-4) of its start
_COUPLED = ("Adam", "NAdam", "RAdam", "RMSprop", "Adagrad")


@dataclass(frozen=True)
class DecayEatsRank(Rule):
    """Weight decay has taken the queries and keys of a layer: their scores have vanished, or all directions but few.

    **What it means** L2 decay on W_Q and W_K is a nuclear-norm penalty on their product: it takes a fixed amount
    from every singular value, so the small ones go first and, when the gradient does not hold against it, all of
    them. The balance of both sides falls as exp(-2 lambda t).

    **Why it matters** Heads compare along one direction, or not at all and average. Decay that Adam divides by its
    rate (Adam with weight_decay, instead of AdamW) does so even where lambda looks small.

    **Evidence required** Decay that is known to be strong enough: rate x decay x steps of at least 2 (so the product
    alone would be at 2 % of its start), or decay inside an adaptive optimiser; and, in the median of the layer's
    heads, an effective rank beside random factors of half the lowest of healthy trainings, or scores that vary by
    less than a tenth of the lowest healthy model's.

    **When it is a false alarm** A task for which one direction, or an average, is all that the layer needs.

    **How to confirm** Train a copy without decay on queries and keys.

    **What to try** Smaller weight decay; AdamW instead of Adam; no decay on queries and keys.
    """

    code: ClassVar[str] = "GRD508"
    severity: ClassVar[Severity] = Severity.WARNING
    needs: ClassVar[tuple[str, ...]] = (
        "decay_folds",
        "query_key_spectrum",
        "score_variance",
        "learning_rates",
        "update_to_weight",
    )
    alternatives: ClassVar[tuple[str, ...]] = (
        "the task needs no more than one direction, or an average",
        "queries and keys were initialised far too small",
    )
    remedies: ClassVar[tuple[str, ...]] = (
        "lower weight_decay, or leave queries and keys out of it",
        "use AdamW instead of Adam with weight_decay",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per attention that decay has taken."""
        suspects = []
        for attention in examination.anatomy.attentions:
            decay, lost = _decay(examination, attention), _lost(examination, attention)
            if decay is not None and lost is not None:
                suspects.append(_suspect(attention, decay, lost))
        return suspects


def _decay(examination: Examination, attention: Attention) -> Evidence | None:
    """What is known of decay that is strong enough to do it; None when it is not."""
    blocks = [attention.blocks[role] for role in ("query", "key") if role in attention.blocks]
    folds = by_block(examination.reading("decay_folds"))
    known = [folds[block] for block in blocks if block in folds]
    if known and min(known) >= _FOLDS:
        return Evidence(
            f"decay alone would have divided these weights by e {shown(min(known))} times since training began",
            "decay_folds",
            min(known),
            _FOLDS,
        )
    rates, update = examination.reading("learning_rates"), examination.reading("update_to_weight")
    if rates is None or update is None or update.facts.get("optimizer") not in _COUPLED or known:
        return None
    decays = [float(rates.facts.get("weight_decay", {}).get(block, 0.0)) for block in blocks]
    if not decays or not min(decays) > 0:
        return None
    name = update.facts["optimizer"]
    return Evidence(
        f"{name} adds {shown(min(decays))} times the weights to their gradients, and then divides by its size",
        "learning_rates",
        min(decays),
        0.0,
    )


def _lost(examination: Examination, attention: Attention) -> Evidence | None:
    """What the layer lost: its directions or its scores."""
    layer, spectrum = attention.layer, examination.reading("query_key_spectrum")
    own, twins = layer_fact(spectrum, "effective_rank", layer), layer_fact(spectrum, "random", layer)
    if own and twins:
        shares = [rank / twin["effective_rank"] for rank, twin in zip(own, twins, strict=True) if rank]
        bound = healthy("rank_beside_random").lowest / 2
        if shares and float(np.median(shares)) < bound:
            rank = float(np.median([value for value in own if value]))
            return Evidence(
                f"W_Q^T W_K of half the heads of L{layer} has an effective rank of {shown(rank)} or less, "
                f"{shown(float(np.median(shares)))} of random factors'",
                "query_key_spectrum",
                float(np.median(shares)),
                bound,
            )
    variances = by_layer(examination.reading("score_variance")).get(layer)
    lowest = healthy("score_variance").lowest / 10
    if variances is not None and float(np.median(variances)) < lowest:
        variance = float(np.median(variances))
        return Evidence(
            f"the scores of L{layer} vary by {shown(variance)}", "score_variance", variance, lowest
        )
    return None


def _suspect(attention: Attention, decay: Evidence, lost: Evidence) -> Suspect:
    layer = attention.layer
    gone = "vanished" if lost.lens == "score_variance" else "lost their rank"
    return Suspect(
        kind="decay_eats_rank",
        place=attention.blocks.get("query", f"L{layer}.Q"),
        evidence=(lost, decay),
        confidence=0.9 if lost.lens == "score_variance" else 0.7,
        severity=Severity.ERROR if lost.lens == "score_variance" else Severity.WARNING,
        source=first_source(attention.score_step),
        summary=f"Queries and keys of L{layer} have {gone} under weight decay.",
        effects=(
            attention.blocks.get("key", f"L{layer}.K"),
            f"uniform_attention@L{layer}*",
            f"head_rank_collapsed@L{layer}*",
            f"zeroed_projection@L{layer}*",
        ),
    )
