"""Whether values and the output projection receive gradients that belong together, head by head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from attnscope.anatomy.blocks import Attention
from attnscope.anatomy.observe import AttentionTensors
from attnscope.lenses import Lens
from attnscope.lenses._factors import (
    THRESHOLDS,
    Factors,
    Form,
    head_groups,
    precision_of,
    product_forms,
    residual,
    worst,
)
from attnscope.lenses._premises import acts_linearly, used_elsewhere
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class ValueOutputGradientIdentity(Lens):
    """Whether a head's values and its output projection receive gradients that belong together.

    **Measures**: ||A - B|| / mean(||A||, ||B||) per value head, with A = dL/dW_V W_V^T (the bias as a further
    column) and B = W_O^T dL/dW_O summed over the query heads that share the value head. The output depends on
    both through their product alone, so A = B for every loss, batch, mask, kernel and position code.

    **Reading it**: rounding (`tolerance` in the facts). As for the queries and keys: 0.667 for a halved
    gradient, 1.42 for a wrong head, 2.0 when one side gets none. NaN: nothing can be said of this head;
    `skipped` in the facts says why (something stands between the heads and the output projection, say).

    **Shapes**: (layer, head); heads are value heads.

    **Cost**: one gradient in eval mode.

    **Reference**: as `query_key_gradient_identity`.
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
        for index, attention in enumerate(attentions):
            why = _why_not(factors, attention, probe.observation.attentions[index])
            if why:
                skipped[attention.name] = why
                continue
            row = _layer(attention, factors, precision)
            why = _unfounded(probe, factors, index) if worst(row) > THRESHOLDS[precision] else ""
            if why:
                skipped[attention.name] = why
                continue
            values[index, : len(row)] = row
        if np.isnan(values).all():
            reasons = "; ".join(f"{layer}: {why}" for layer, why in skipped.items())
            return self.not_applicable(reasons[:500] or "every head's gradient is too small beside its rounding")
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


def _why_not(factors: Factors, attention: Attention, observed: AttentionTensors) -> str:
    """Empty when the identity holds for this attention, else why not."""
    if not attention.head_slices.get("value") or not attention.head_slices.get("output"):
        return "values or the output have no projection of their own"
    if factors.head(attention, "value", 0) is None or factors.head(attention, "output", 0) is None:
        return "the parts of the projections could not be read as matrices"
    if not factors.reached(attention, "value", "output"):
        return "no gradient reaches values or the output projection"
    return "" if _is_projected(factors, attention, observed) else "the heads are changed before the output projection"


def _unfounded(probe: Probe, factors: Factors, index: int) -> str:
    """Why a broken identity says nothing here after all; empty when it does."""
    attention = probe.anatomy.attentions[index]
    if not acts_linearly(probe, index, "value", factors.pieces(attention, "value")):
        return "the result does not depend linearly on the value projection alone"
    step = attention.value_step.index if attention.value_step is not None else None
    if used_elsewhere(probe, attention, ("value",), step):
        return "values are used outside the attention, too"
    return ""


def _is_projected(factors: Factors, attention: Attention, observed: AttentionTensors) -> bool:
    """Whether the output is what the projection makes of the heads' results, up to a constant (the bias)."""
    if observed.output is None or observed.context is None:
        return True
    context = observed.context.detach().double().cpu()
    made = None
    for head in range(min(attention.n_heads, context.shape[1])):
        factor = factors.head(attention, "output", head)
        if factor is None or factor.weight.shape[0] != context.shape[-1]:
            return True
        term = context[:, head] @ factor.weight
        made = term if made is None else made + term
    seen = observed.output.detach().double().cpu()
    if made is None or made.shape != seen.shape:
        return True
    apart = seen - made
    apart = apart - apart.flatten(0, -2).mean(0)
    size = torch.maximum(made.norm(), seen.norm())
    return float(apart.norm()) <= (0.1 if observed.context.element_size() < 4 else 1e-3) * float(size)


def _layer(attention: Attention, factors: Factors, precision: str) -> list[float]:
    best: list[float] = []
    for grouping in head_groups(attention):
        for form in product_forms("value" in attention.rotary_sides).values():
            row = [_head(attention, factors, head, group, form, precision) for head, group in enumerate(grouping)]
            if not best or worst(row) < worst(best):
                best = row
            if worst(row) <= THRESHOLDS[precision]:
                return row
    return best


def _head(attention: Attention, factors: Factors, head: int, group: list[int], form: Form, precision: str) -> float:
    value = factors.head(attention, "value", head)
    outputs = [factors.head(attention, "output", query) for query in group]
    if value is None or any(output is None for output in outputs):
        return float("nan")
    left = value.gradient @ value.weight.T
    right = torch.zeros_like(left)
    for output in outputs:
        if output is None or output.weight.shape[0] != left.shape[0]:
            return float("nan")
        right = right + output.weight @ output.gradient.T
    size = max(value.size, *(output.size for output in outputs if output is not None))
    return residual(form(left), form(right), size, precision)
