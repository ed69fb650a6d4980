"""Singular values of products of two thin factors, head by head, from their triangles alone, beside random factors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnscope.anatomy.blocks import Anatomy
from attnscope.errors import CaseError
from attnscope.lenses import Lens
from attnscope.lenses._low_rank import effective_weights, low_rank_pairs
from attnscope.lenses._parameters import head_factors, named
from attnscope.probe import Probe
from attnscope.readings import NOT_FINITE, Reading

QUERY_KEY, VALUE_OUTPUT = ("query", "key"), ("value", "output")
Factors = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Product:
    """The product left^T right of each head, and a random one to read it beside.

    Attributes:
        left, right: `[head, width, d_model]`.
        random: spectra `[head, direction]` of random factors of the same shape and scale.
        half_squares: half the sum of squares of the head's two weights, `[head]`.
    """

    left: Tensor
    right: Tensor
    random: Tensor
    half_squares: Tensor


def why_no_product(anatomy: Anatomy, roles: tuple[str, str]) -> str:
    """Empty when some attention has both projections."""
    if any(set(roles) <= set(attention.head_slices) for attention in anatomy.attentions):
        return ""
    return f"no attention has both a {roles[0]} and a {roles[1]} projection"


def products(probe: Probe, roles: tuple[str, str]) -> list[Product | None]:
    """W_left^T W_right of each head as it is now, one entry per attention."""
    weights, random = _weights(probe, start=False), _Random(probe.seed)
    found: list[Product | None] = []
    for attention in probe.anatomy.attentions:
        factors = head_factors(weights, attention, roles)
        found.append(factors and Product(*factors, random.like(*factors), _half_squares(*factors)))
    return found


def changes(probe: Probe, roles: tuple[str, str]) -> list[Product | None]:
    """W_left^T W_right of each head less what it was before training, as a product of factors twice as wide.

    L^T R - L0^T R0 = [L - L0, L0]^T [R, R - R0]: no difference of large products, so nothing cancels. The random
    change moves the same start as far in a random direction.
    """
    now, start, random = _weights(probe, start=False), _weights(probe, start=True), _Random(probe.seed)
    found: list[Product | None] = []
    for attention in probe.anatomy.attentions:
        factors, before = head_factors(now, attention, roles), head_factors(start, attention, roles)
        if factors is None or before is None:
            found.append(None)
            continue
        moved = factors[0] - before[0], factors[1] - before[1]
        blind = random.directions(*moved)
        stacked = _stacked(before, moved)
        found.append(Product(*stacked, product_spectrum(*_stacked(before, blind)), _half_squares(*factors)))
    return found


def _stacked(before: Factors, moved: Factors) -> Factors:
    return torch.cat([moved[0], before[0]], -2), torch.cat([before[1] + moved[1], moved[1]], -2)


def _weights(probe: Probe, *, start: bool) -> dict[str, Tensor]:
    """Parameter name -> numbers, adapters added in where the model has any."""
    held = dict(probe.start or {}) if start else named(probe.model)
    if not low_rank_pairs(probe.model):
        return held
    try:
        return effective_weights(probe.model, probe.gradients, held)
    except CaseError:  # without a loss nothing tells an adapter's scale
        return held


def _half_squares(left: Tensor, right: Tensor) -> Tensor:
    return (left.square().sum((-1, -2)) + right.square().sum((-1, -2))) / 2


def spectra_reading(lens: Lens, probe: Probe, found: list[Product | None], why_none: str) -> Reading:
    """Singular values over (layer, head, direction), with each head's summary and its random twin's as facts."""
    spectra = [None if product is None else product_spectrum(product.left, product.right) for product in found]
    known = [values for values in spectra if values is not None]
    if not known:
        return lens.not_applicable(why_none)
    n_heads, depth = (max(values.shape[axis] for values in known) for axis in (0, 1))
    array = np.full((len(spectra), n_heads, depth), np.nan)
    layers = tuple(attention.layer for attention in probe.anatomy.attentions)
    facts: dict[str, list[Any]] = {name: [] for name in (*_summary(torch.ones(1), 1.0), "random")}
    broken = ""
    for row, (product, values) in enumerate(zip(found, spectra, strict=True)):
        if product is None or values is None:
            for store in facts.values():
                store.append(None)
            continue
        array[row, : values.shape[0], : values.shape[1]] = values.numpy()
        summaries = [_summary(head, float(half)) for head, half in zip(values, product.half_squares, strict=True)]
        for name in summaries[0]:
            facts[name].append([summary[name] for summary in summaries])
        twins = zip(product.random, product.half_squares, strict=True)
        facts["random"].append([_summary(head, float(half)) for head, half in twins])
        bad = (~values.isfinite()).any(-1).nonzero()
        if len(bad) and not broken:
            broken = f"L{layers[row]}H{int(bad[0])}"
    coords: dict[str, Any] = {"layer": layers, "head": tuple(range(n_heads))}
    reading = lens.reading(array, coords=coords, step=probe.step, facts=facts)
    if broken:
        return replace(reading, status=NOT_FINITE, note=f"the weights of {broken} are not finite")
    return reading


def product_spectrum(left: Tensor, right: Tensor) -> Tensor:
    """Singular values of left^T right for [..., d_head, d_model] factors, from their triangles; NaN stays NaN."""
    finite = left.isfinite().all(-1).all(-1) & right.isfinite().all(-1).all(-1)
    left, right = (torch.where(finite[..., None, None], factor, 0.0) for factor in (left, right))
    small = torch.linalg.qr(left.mT, mode="r").R @ torch.linalg.qr(right.mT, mode="r").R.mT
    values: Tensor = torch.linalg.svdvals(small)
    return torch.where(finite[..., None], values, torch.nan)


class _Random:
    """Gaussian factors, drawn once per shape: scaling a factor scales its spectrum."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.drawn: dict[tuple[torch.Size, torch.Size], Tensor] = {}

    def like(self, left: Tensor, right: Tensor) -> Tensor:
        """Spectra for factors of the shapes and norms of these, [head, direction]."""
        shapes = (left.shape, right.shape)
        if shapes not in self.drawn:
            self.drawn[shapes] = product_spectrum(*(self._unit(shape) for shape in shapes))
        norms = left.norm(dim=(-1, -2)) * right.norm(dim=(-1, -2))
        spectra: Tensor = self.drawn[shapes] * norms[:, None]
        return spectra

    def directions(self, left: Tensor, right: Tensor) -> Factors:
        """Gaussian matrices of the shapes and norms of these."""
        one, other = (self._unit(moved.shape) * moved.norm(dim=(-1, -2), keepdim=True) for moved in (left, right))
        return one, other

    def _unit(self, shape: torch.Size) -> Tensor:
        drawn = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        unit: Tensor = drawn / drawn.norm(dim=(-1, -2), keepdim=True)
        return unit


def _summary(values: Tensor, half_squares: float) -> dict[str, float]:
    top, total = float(values.max()), float(values.sum())
    shares = values / total if total else values
    return {
        "spectral_norm": top,
        "nuclear_norm": total,
        "stable_rank": float((values / top).square().sum()) if top else 0.0,
        "effective_rank": float(torch.special.entr(shares).sum().exp()) if total else 0.0,
        "nuclear_share": total / half_squares if half_squares else 0.0,
    }
