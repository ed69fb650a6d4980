"""The share of attention on tokens that decide the label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attnscope.lenses import STANDARD, Lens
from attnscope.lenses._label_association import Association, association
from attnscope.lenses._per_head import heads_reading
from attnscope.lenses._rows import rows
from attnscope.lenses._token_types import key_tokens, moments, single_batches
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class DiscriminativeAttention(Lens):
    """The share of attention on tokens that go with a label, as the data themselves say.

    **Measures** the mean over real queries that may see such a token of their weight on discriminative tokens:
    types whose association with the label is beyond what shuffled labels give anywhere in 95 % of shuffles
    (unit 1).

    **Reading it** `uniform` in the facts is what weighing all keys alike would give; a model that learns to
    attend rises above it during training. Staying at it is no fault where values carry the information, or
    other layers do the looking. Far below: the head looks elsewhere on purpose (separators, position).

    **Shapes** [layer, head]; NaN where keys are not tokens. Facts: `uniform` per layer; `tokens`: the
    discriminative types as [token, label, purity, examples], purest first, at most 50; `n_examples`.

    **Cost** one forward pass per batch, of the first 32; 200 shuffles of the labels, counted.

    **Reference** Lu, Mao, Nayak 2021, arXiv:2011.10036 (topic words); Li et al. 2023, arXiv:2302.06015.
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("layer", "head")
    needs: ClassVar[tuple[str, ...]] = ("pattern", "loss")
    effort: ClassVar[str] = STANDARD

    def measure(self, probe: Probe) -> Reading:
        """The share per head."""
        known = association(probe, single_batches(probe))
        if isinstance(known, str):
            return self.not_applicable(known)
        if not known.discriminative.any():
            return self.not_applicable(
                f"no token goes with a label beyond chance in {known.n_examples} examples; pass more batches"
            )
        n_layers = len(probe.anatomy.attentions)
        shares: list[Tensor | None] = [None] * n_layers
        uniform, counts = [0.0] * n_layers, [0] * n_layers
        with moments(probe) as each:
            for moment in each:
                for index, layer in enumerate(rows(moment)):
                    ids = key_tokens(moment, index)
                    if ids is None:
                        continue
                    chosen = _chosen(known, ids)
                    if layer.real.keys is not None:
                        chosen &= layer.real.keys
                    seen = layer.allowed & chosen[:, None, None, :]
                    due = layer.counts & seen.any(-1)
                    mass = torch.where(chosen[:, None, None, :], layer.pattern, torch.zeros_like(layer.pattern)).sum(-1)
                    total = torch.where(due, mass, torch.zeros_like(mass)).sum((0, 2))
                    before = shares[index]
                    shares[index] = total if before is None else before + total
                    uniform[index] += float((seen.sum(-1) / layer.n_allowed)[due].sum())
                    counts[index] += int(due[:, 0].sum())
        heads = [None if share is None or not n else share / n for share, n in zip(shares, counts, strict=True)]
        return heads_reading(
            self, probe, heads, why_none="no attention's keys are tokens of the batch",
            facts={
                "uniform": [
                    None if share is None or not n else total / (n * share.numel())
                    for share, total, n in zip(shares, uniform, counts, strict=True)
                ],
                "tokens": _listed(known), "n_examples": known.n_examples,
            },
        )


def _chosen(known: Association, ids: Tensor) -> Tensor:
    """True on discriminative tokens."""
    place = torch.from_numpy(known.places(ids.numpy()))
    return (place >= 0) & torch.from_numpy(known.discriminative)[place.clamp(min=0)]


def _listed(known: Association) -> list[list[float | int]]:
    places = [int(place) for place in (-known.purity).argsort(kind="stable") if known.discriminative[place]][:50]
    return [
        [int(known.ids[place]), int(known.label[place]), float(known.purity[place]), int(known.n[place])]
        for place in places
    ]
