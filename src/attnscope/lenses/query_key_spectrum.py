"""The singular values of each head's query-key product of weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from attnscope.lenses import Lens
from attnscope.lenses._parameters import head_factors, named
from attnscope.probe import Probe
from attnscope.readings import NOT_FINITE, Reading


@dataclass(frozen=True)
class QueryKeySpectrum(Lens):
    """The singular values of W_Q^T W_K of each head: which directions it can compare, and how strongly.

    **Measures** the singular values, largest first, of the d_model x d_model matrix that turns two tokens
    into a score, before scale and rotation (unit parameter^2). Computed from the factors: with QR of each
    factor, the singular values of the small product of the two triangles are the same.

    **Reading it** the first one is the spectral norm, their sum the nuclear norm. Read both beside `random`:
    the same for Gaussian factors of equal shape and norm. Stable rank (`stable_rank`) well below random is
    what training does; 1 means that the head compares along one direction only. All zero: a zero projection.
    Scaling queries by c and keys by 1/c leaves all of it unchanged.

    **Shapes** [layer, head, direction]; NaN beyond d_head and where the factors were not found. Facts,
    each per [layer][head]: `spectral_norm`, `nuclear_norm`, `stable_rank`, `effective_rank`, `random` (a
    mapping of the same four for random factors), `nuclear_share`: nuclear norm over (|W_Q|^2 +
    |W_K|^2)/2.

    **Cost** two QR and one singular value decomposition of d_head columns per head, batched by layer, and the
    same once for random factors; no d_model^2 matrix.

    **Reference** Sheen et al. 2024, Implicit Regularization of Gradient Flow on One-Layer Softmax Attention,
    arXiv:2403.08699; Roy & Vetterli 2007 (effective rank).
    """

    unit: ClassVar[str] = "parameter^2"
    dims: ClassVar[tuple[str, ...]] = ("layer", "head", "direction")
    needs: ClassVar[tuple[str, ...]] = ("weights",)

    def applies_to(self, anatomy: Any) -> str:
        """Needs a query and a key projection somewhere."""
        if any({"query", "key"} <= set(attention.head_slices) for attention in anatomy.attentions):
            return ""
        return "no attention has both a query and a key projection"

    def measure(self, probe: Probe) -> Reading:
        """The spectrum of each head."""
        parameters = named(probe.model)
        random = _Random(probe.seed)
        spectra: list[Tensor | None] = []
        facts: dict[str, list[Any]] = {name: [] for name in (*_summary(torch.ones(1)), "random", "nuclear_share")}
        for attention in probe.anatomy.attentions:
            factors = head_factors(parameters, attention)
            if factors is None:
                spectra.append(None)
                for rows in facts.values():
                    rows.append(None)
                continue
            query, key = factors
            values = product_spectrum(query, key)
            spectra.append(values)
            summaries = [_summary(head) for head in values]
            for name in summaries[0]:
                facts[name].append([summary[name] for summary in summaries])
            facts["random"].append([_summary(head) for head in random.like(query, key)])
            balance = (query.square().sum((-1, -2)) + key.square().sum((-1, -2))) / 2
            shares = values.sum(-1) / torch.where(balance == 0, torch.ones_like(balance), balance)
            facts["nuclear_share"].append(shares.tolist())
        return self._reading(probe, spectra, facts)

    def _reading(self, probe: Probe, spectra: list[Tensor | None], facts: dict[str, list[Any]]) -> Reading:
        known = [values for values in spectra if values is not None]
        if not known:
            return self.not_applicable("no attention has both a query and a key projection")
        n_heads, depth = (max(values.shape[axis] for values in known) for axis in (0, 1))
        array = np.full((len(spectra), n_heads, depth), np.nan)
        layers = tuple(attention.layer for attention in probe.anatomy.attentions)
        broken = ""
        for row, values in enumerate(spectra):
            if values is None:
                continue
            array[row, : values.shape[0], : values.shape[1]] = values.numpy()
            bad = (~values.isfinite()).any(-1).nonzero()
            if len(bad) and not broken:
                broken = f"L{layers[row]}H{int(bad[0])}"
        reading = self.reading(
            array, coords={"layer": layers, "head": tuple(range(n_heads))}, step=probe.step, facts=facts,
        )
        if broken:
            return replace(reading, status=NOT_FINITE, note=f"the weights of {broken} are not finite")
        return reading


def product_spectrum(query: Tensor, key: Tensor) -> Tensor:
    """Singular values of query^T key for [..., d_head, d_model] factors, from their triangles; NaN stays NaN."""
    finite = query.isfinite().all(-1).all(-1) & key.isfinite().all(-1).all(-1)
    query, key = (torch.where(finite[..., None, None], factor, 0.0) for factor in (query, key))
    small = torch.linalg.qr(query.mT, mode="r").R @ torch.linalg.qr(key.mT, mode="r").R.mT
    values: Tensor = torch.linalg.svdvals(small)
    return torch.where(finite[..., None], values, torch.nan)


class _Random:
    """The spectra of Gaussian factors, drawn once per shape: scaling a factor scales its spectrum."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.drawn: dict[tuple[torch.Size, torch.Size], Tensor] = {}

    def like(self, query: Tensor, key: Tensor) -> Tensor:
        """Spectra for factors of the shapes and norms of these, [head, direction]."""
        shapes = (query.shape, key.shape)
        if shapes not in self.drawn:
            one, other = (torch.randn(shape, generator=self.generator, dtype=torch.float64) for shape in shapes)
            unit = [factor / factor.norm(dim=(-1, -2), keepdim=True) for factor in (one, other)]
            self.drawn[shapes] = product_spectrum(*unit)
        norms = query.norm(dim=(-1, -2)) * key.norm(dim=(-1, -2))
        spectra: Tensor = self.drawn[shapes] * norms[:, None]
        return spectra


def _summary(values: Tensor) -> dict[str, float]:
    top, total = float(values.max()), float(values.sum())
    shares = values / total if total else values
    return {
        "spectral_norm": top,
        "nuclear_norm": total,
        "stable_rank": float(values.square().sum()) / top**2 if top else 0.0,
        "effective_rank": float(torch.special.entr(shares).sum().exp()) if total else 0.0,
    }
