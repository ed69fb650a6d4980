"""The gradient of each head's key bias, which a softmax over keys makes zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from attnscope.anatomy.blocks import Attention, Kind, ParameterSlice
from attnscope.lenses import Lens
from attnscope.lenses._factors import THRESHOLDS, Factors, is_projected, precision_of, worst
from attnscope.lenses._parameters import part
from attnscope.lenses._premises import acts_linearly
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class KeyBiasGradient(Lens):
    """The gradient of a head's key bias beside that of its query bias: exactly zero under a softmax.

    **Measures**: ||dL/db_K|| / ||dL/db_Q|| per head. A key bias adds the same number to all scores of a query,
    which a softmax over keys does not see; so its gradient is zero for every loss and batch.

    **Reading it**: rounding (`tolerance` in the facts; 1e-7 in float32). About 0.3: some keys are detached;
    about 1: queries and keys share their weights. Above the tolerance too when the softmax runs over
    something else than the keys. It says nothing with rotary positions, normalised keys, a learned sink or an
    added zero key (NaN).

    **Shapes**: (layer, head).

    **Cost**: one gradient in eval mode.

    **Reference**: derived here from the invariance of the softmax to a shift.
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("layer", "head")
    needs: ClassVar[tuple[str, ...]] = ("pattern", "gradient")

    def measure(self, probe: Probe) -> Reading:
        """Reads both gradients per head."""
        precision = precision_of(probe)
        factors = Factors.of(probe)
        gradients = factors.gradients
        attentions = probe.anatomy.attentions
        values = np.full((len(attentions), max((a.n_key_heads for a in attentions), default=0)), np.nan)
        skipped: dict[str, str] = {}
        for index, attention in enumerate(attentions):
            why = _why_not(attention)
            if not why and not is_projected(attention, factors, probe.observation.attentions[index]):
                why = "queries are normalised after their projection"
            if why:
                skipped[attention.name] = why
                continue
            row = [_ratio(attention, gradients, head) for head in range(attention.n_key_heads)]
            if worst(row) > THRESHOLDS[precision] and not acts_linearly(
                probe, index, "key", factors.pieces(attention, "key")
            ):
                skipped[attention.name] = "the scores do not depend linearly on the key projection alone"
                continue
            values[index, : len(row)] = row
        if np.isnan(values).all():
            reasons = "; ".join(f"{layer}: {why}" for layer, why in skipped.items())
            return self.not_applicable(reasons[:500] or "no gradient reaches the biases of the queries")
        return self.reading(
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
                "violated": [[attentions[i].layer, int(j)] for i, j in np.argwhere(values > THRESHOLDS[precision])],
            },
        )


def _why_not(attention: Attention) -> str:
    if "rotary" in attention.positions:
        return "rotary positions turn the key bias by its position"
    if attention.softmax is not None and attention.softmax.normaliser != "softmax":
        return f"the scores pass through {attention.softmax.normaliser}, no plain softmax"
    if any("mul" in step.how and step.when == "before_softmax" for step in attention.mask):
        return "the mask multiplies the scores"
    if attention.kind is Kind.SELF and attention.n_keys != attention.n_queries:
        return "there are more keys than tokens"
    if attention.n_key_heads != attention.n_heads:
        return "key heads are shared"
    for role in ("query", "key"):
        heads = attention.head_slices.get(role, ())
        if not heads or _bias(attention, role, 0) is None:
            return f"the {role} projection has no bias"
        if len(heads[0]) > 2:
            return f"more than a weight and a bias makes the {role}"
    return ""


def _bias(attention: Attention, role: str, head: int) -> ParameterSlice | None:
    pieces = attention.head_slices[role][head]
    return next((piece for piece in pieces if len(piece.shape) == 1), None)


def _ratio(attention: Attention, gradients: Mapping[str, Tensor], head: int) -> float:
    norms = []
    for role in ("key", "query"):
        piece = _bias(attention, role, head)
        norms.append(float("nan") if piece is None else float(part(gradients, piece).double().norm()))
    return norms[0] / norms[1] if norms[1] else (0.0 if norms[0] == 0.0 else float("nan"))
