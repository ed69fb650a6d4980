"""Whether scores under rotary positions depend on the distance of two tokens alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attnscope.anatomy.blocks import Anatomy, Attention, Kind
from attnscope.anatomy.observe import AttentionTensors
from attnscope.lenses import STANDARD, Lens
from attnscope.lenses._batch import tensors
from attnscope.lenses._sequence import main_sequence
from attnscope.probe import Probe
from attnscope.readings import Reading

_ROUNDINGS = 16  # of one query-key product: two rotations, two sums, and what the layers below add


@dataclass(frozen=True)
class DistanceScores(Lens):
    """How far scores under rotary positions are from depending on distance alone: an identity, 0 to rounding.

    **Measures**: the batch's tokens are all replaced by one token. Without absolute positions every position
    then holds the same vector, in every layer, and a query-key product can differ from another only by the
    distance of its two positions. Per layer: the largest difference between two products at the same distance,
    over the largest |query| |key|.

    **Reading it**: 0 to rounding. Above it, one side is turned by other angles than the other (or not at all),
    or positions reach the model by another way than the rotation of queries and keys. The first such layer
    counts; in later ones the positions are in the hidden states already.

    **Shapes**: (layer,); NaN for an attention without rotary positions. Facts: `tolerance`, of the model's
    precision at this length; `violated`: layers beyond it; `first`: the first of them.

    **Cost**: one forward pass.

    **Reference**: Su et al., 2021, RoFormer, arXiv:2104.09864, equation 16: <R_m q, R_n k> depends on m - n.
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("layer",)
    needs: ClassVar[tuple[str, ...]] = ("pattern",)
    effort: ClassVar[str] = STANDARD

    def applies_to(self, anatomy: Anatomy) -> str:
        """Only where rotary positions are the only ones."""
        if not any(_turned(attention) for attention in anatomy.attentions):
            return "no self-attention has rotary positions"
        others = {place for attention in anatomy.attentions for place in attention.positions} - {"rotary", "none"}
        return f"positions reach the model in another way, too: {', '.join(sorted(others))}" if others else ""

    def measure(self, probe: Probe) -> Reading:
        """Makes all tokens one, and compares products at the same distance."""
        why_not = self.applies_to(probe.anatomy)
        if why_not:
            return self.not_applicable(why_not)
        sequence = main_sequence(probe)
        if sequence is None or sequence.use != "tokens" or sequence.real.ndim != 2 or sequence.length < 3:
            return self.not_applicable("the batch holds no flat sequence of three or more tokens")
        if any("position" in path.lower() for path in tensors(probe.batch)):
            return self.not_applicable("the batch brings its own positions")
        content = sequence.laid_out(sequence.tensor)
        observed = probe.observation_of(sequence.put(probe.batch, torch.full_like(content, int(content[0, 0]))))
        values, bounds = [], []
        for attention, one in zip(probe.anatomy.attentions, observed.attentions, strict=False):
            compared = _turned(attention) and one.query is not None and one.key is not None
            values.append(_difference(one) if compared else float("nan"))
            bounds.append(_bound(one) if compared else float("nan"))
        violated = [
            attention.layer
            for attention, value, bound in zip(probe.anatomy.attentions, values, bounds, strict=False)
            if value > bound
        ]
        layers = tuple(attention.layer for attention in probe.anatomy.attentions[: len(values)])
        facts = {"tolerance": bounds, "violated": violated, "first": violated[0] if violated else None}
        return self.reading(values, coords={"layer": layers}, step=probe.step, facts=facts)


def _turned(attention: Attention) -> bool:
    return attention.kind is Kind.SELF and "rotary" in attention.positions


def _difference(one: AttentionTensors) -> float:
    """The largest difference of two products at the same distance, over the largest |query| |key|."""
    assert one.query is not None
    assert one.key is not None
    query, key = one.query.double(), one.key.double()
    products = query @ key.transpose(-1, -2)
    largest = float((query.norm(dim=-1).amax() * key.norm(dim=-1).amax()).clamp(min=1e-300))
    n_queries, n_keys = products.shape[-2:]
    spreads = [_spread(products.diagonal(offset, -2, -1)) for offset in range(1 - n_queries, n_keys)]
    return max(spreads) / largest


def _spread(diagonal: Tensor) -> float:
    return float((diagonal.amax(-1) - diagonal.amin(-1)).max())


def _bound(one: AttentionTensors) -> float:
    """Angles are products of positions and frequencies, each rounded: their error grows with the position."""
    assert one.query is not None
    return float(torch.finfo(one.query.dtype).eps) * (_ROUNDINGS + one.query.shape[-2])
