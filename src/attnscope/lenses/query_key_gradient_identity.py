"""Whether queries and keys receive gradients that belong together, head by head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from attnscope.lenses import Lens
from attnscope.lenses._factors import THRESHOLDS, Factors, is_projected, precision_of, worst
from attnscope.lenses._premises import acts_linearly, used_elsewhere
from attnscope.lenses._query_key_identity import identity_of
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class QueryKeyGradientIdentity(Lens):
    """Whether a head's queries and keys receive gradients that belong together: an exact identity.

    **Measures**: ||A - B|| / mean(||A||, ||B||) per key head, with A = W_Q (dL/dW_Q)^T summed over the query
    heads that share the key head, and B = dL/dW_K W_K^T, biases as a further column of W. Scores depend on
    W_Q and W_K through their product alone, so A = B for every loss, batch, mask and kernel. With rotary
    positions the trace and the antisymmetric part of every rotary plane are compared instead.

    **Reading it**: rounding (`tolerance` in the facts; 5e-7 in float32). 0.667: one side's gradient is
    halved. 0.75: half of the keys are detached. 1.42: a gradient lands in another head. 2.0: one side gets
    none. NaN: nothing can be said of this head; `skipped` in the facts says why (queries or keys are
    normalised after their projection, say).

    **Shapes**: (layer, head); heads are key heads.

    **Cost**: one gradient in eval mode.

    **Reference**: derived here from the bilinear form of the scores; the conserved quantity it belongs to is in
    Sheen et al., 2024, arXiv:2403.08699.
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("layer", "head")
    needs: ClassVar[tuple[str, ...]] = ("pattern", "gradient")

    def measure(self, probe: Probe) -> Reading:
        """Compares both sides per head."""
        precision = precision_of(probe)
        factors = Factors.of(probe)
        attentions = probe.anatomy.attentions
        values = np.full((len(attentions), max((a.n_key_heads for a in attentions), default=0)), np.nan)
        skipped: dict[str, str] = {}
        forms: dict[str, str] = {}
        for index, attention in enumerate(attentions):
            why = _why_not(probe, factors, index)
            if why:
                skipped[attention.name] = why
                continue
            identity = identity_of(attention, factors, precision)
            row, forms[attention.name] = identity.residuals, identity.form
            why = _unfounded(probe, factors, index) if worst(row) > THRESHOLDS[precision] else ""
            if why:
                skipped[attention.name] = why
                continue
            values[index, : len(row)] = row
        if len(skipped) == len(attentions):
            return self.not_applicable("; ".join(f"{layer}: {why}" for layer, why in skipped.items())[:500])
        reading = self.reading(
            values,
            coords={
                "layer": tuple(attention.layer for attention in attentions),
                "head": tuple(range(values.shape[1])),
            },
            step=probe.step,
            facts={
                "tolerance": THRESHOLDS[precision],
                "precision": precision,
                "skipped": skipped,
                "form": forms,
                "violated": [[attentions[i].layer, int(j)] for i, j in np.argwhere(values > THRESHOLDS[precision])],
            },
        )
        if np.isnan(values).all():
            return self.not_applicable("every head's gradient is too small beside its rounding")
        return reading


def _why_not(probe: Probe, factors: Factors, index: int) -> str:
    """Empty when the identity holds for this attention, else why not."""
    attention = probe.anatomy.attentions[index]
    if not attention.head_slices.get("query") or not attention.head_slices.get("key"):
        return "queries or keys have no projection of their own"
    if factors.head(attention, "query", 0) is None or factors.head(attention, "key", 0) is None:
        return "the parts of the projections could not be read as matrices"
    if not factors.reached(attention, "query", "key"):
        return "no gradient reaches queries or keys"
    observed = probe.observation.attentions[index]
    return "" if is_projected(attention, factors, observed) else "queries are normalised after their projection"


def _unfounded(probe: Probe, factors: Factors, index: int) -> str:
    """Why a broken identity says nothing here after all; empty when it does."""
    attention = probe.anatomy.attentions[index]
    for role in ("query", "key"):
        if not acts_linearly(probe, index, role, factors.pieces(attention, role)):
            return f"the scores do not depend linearly on the {role} projection alone"
    step = attention.score_step.index if attention.score_step is not None else None
    if used_elsewhere(probe, attention, ("query", "key"), step):
        return "queries or keys are used outside the scores, too"
    return ""
