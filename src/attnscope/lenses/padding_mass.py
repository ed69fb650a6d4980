"""How much attention real tokens pay to padding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attnscope.lenses import Lens
from attnscope.lenses._per_head import heads_reading, nested
from attnscope.lenses._rows import rows
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class PaddingMass(Lens):
    """The share of attention that real tokens pay to padding: an identity, it must be zero.

    **Measures** the mean over real queries, in examples that have padding, of the weight on padded keys
    (unit 1).

    **Reading it** 0 to rounding when padding is masked with a large enough number. The share of padded keys
    (fact `share_of_keys`) when there is no mask; near 1 when the mask is inverted. A small positive number:
    the fill of the mask is too small. What is padding is the author's word (`expects`), or inferred.

    **Shapes** [layer, head]; NaN for an attention whose keys are not the padded tokens. Facts: `largest`: the
    largest weight on one padded key per [layer][head]; `share_of_keys`: mean share of padded keys per layer;
    `masked_by_trace`: whether the trace's mask forbids every padded key, per layer.

    **Cost** one forward pass, shared.

    **Reference** none needed: an identity.
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("layer", "head")
    needs: ClassVar[tuple[str, ...]] = ("pattern",)

    def measure(self, probe: Probe) -> Reading:
        """The mass on padding of each head."""
        means: list[Tensor | None] = []
        largest: list[Tensor | None] = []
        shares: list[float | None] = []
        masked: list[bool | None] = []
        stated = False
        for layer in rows(probe):
            real = layer.real.keys
            stated = stated or real is not None
            # An example of padding only (an empty sentence of a document) has no right answer.
            mixed = None if real is None else ~real.all(-1) & real.any(-1)
            if real is None or mixed is None or not bool(mixed.any()):
                means.append(None)
                largest.append(None)
                shares.append(None)
                masked.append(None)
                continue
            counts = mixed[:, None, None].expand(layer.pattern.shape[:3])
            if layer.real.queries is not None:
                counts = counts & layer.real.queries[:, None]
            padded = torch.where(~real[:, None, None, :], layer.pattern, 0.0)
            mass = torch.where(counts, padded.sum(-1), 0.0)
            means.append(mass.sum((0, 2)) / counts.sum((0, 2)))
            largest.append(torch.where(counts[..., None], padded, 0.0).amax((0, 2, 3)))
            shares.append(float((~real[mixed]).double().mean()))
            forbidden = ~layer.allowed | real[:, None, None, :]
            masked.append(bool(torch.where(counts[..., None], forbidden, True).all()))
        why = (
            "no key of the first batch is padding" if stated
            else "nothing says which tokens are padding: state expects padding_token or padding_mask"
        )
        return heads_reading(
            self, probe, means, why_none=why,
            facts={"largest": nested(largest), "share_of_keys": shares, "masked_by_trace": masked},
        )
