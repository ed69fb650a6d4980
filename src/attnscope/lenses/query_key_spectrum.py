"""The singular values of each head's query-key product of weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from attnscope.lenses import Lens
from attnscope.lenses._parameters import head_matrix, named
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

    **Cost** three QR and two singular value decompositions of d_head columns per head; no d_model^2 matrix.

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
        generator = torch.Generator().manual_seed(probe.seed)
        spectra: list[list[Tensor]] = []
        facts: dict[str, list[Any]] = {
            name: [] for name in (*_summary(torch.ones(1)), "random", "nuclear_share")
        }
        for attention in probe.anatomy.attentions:
            found: list[Tensor] = []
            rows: dict[str, list[Any]] = {name: [] for name in facts}
            for head in range(attention.n_heads):
                query = head_matrix(parameters, attention, "query", head)
                key_head = head * max(attention.n_key_heads, 1) // max(attention.n_heads, 1)
                key = head_matrix(parameters, attention, "key", key_head)
                if query is None or key is None or query.shape[0] != key.shape[0]:
                    continue
                values = product_spectrum(query, key)
                found.append(values)
                for name, number in _summary(values).items():
                    rows[name].append(number)
                random = product_spectrum(_like(query, generator), _like(key, generator))
                rows["random"].append(_summary(random))
                balance = float(query.square().sum() + key.square().sum()) / 2
                rows["nuclear_share"].append(float(values.sum()) / balance if balance else 0.0)
            spectra.append(found)
            for name, numbers in rows.items():
                facts[name].append(numbers or None)
        return self._reading(probe, spectra, facts)

    def _reading(self, probe: Probe, spectra: list[list[Tensor]], facts: dict[str, list[Any]]) -> Reading:
        n_heads = max((len(heads) for heads in spectra), default=0)
        if n_heads == 0:
            return self.not_applicable("no attention has both a query and a key projection")
        depth = max(len(values) for heads in spectra for values in heads)
        array = np.full((len(spectra), n_heads, depth), np.nan)
        layers = tuple(attention.layer for attention in probe.anatomy.attentions)
        broken = ""
        for row, heads in enumerate(spectra):
            for head, values in enumerate(heads):
                array[row, head, : len(values)] = values.numpy()
                if not broken and not bool(values.isfinite().all()):
                    broken = f"L{layers[row]}H{head}"
        reading = self.reading(
            array, coords={"layer": layers, "head": tuple(range(n_heads))}, step=probe.step, facts=facts,
        )
        if broken:
            return replace(reading, status=NOT_FINITE, note=f"the weights of {broken} are not finite")
        return reading


def product_spectrum(query: Tensor, key: Tensor) -> Tensor:
    """Singular values of query^T key for [d_head, d_model] factors, from their triangles."""
    if not bool(query.isfinite().all() and key.isfinite().all()):
        return torch.full((query.shape[0],), torch.nan, dtype=torch.float64)
    small = torch.linalg.qr(query.T, mode="r").R @ torch.linalg.qr(key.T, mode="r").R.T
    values: Tensor = torch.linalg.svdvals(small)
    return values


def _like(matrix: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian numbers of the same shape and norm."""
    drawn = torch.randn(matrix.shape, generator=generator, dtype=torch.float64)
    scaled: Tensor = drawn * (matrix.norm() / drawn.norm())
    return scaled


def _summary(values: Tensor) -> dict[str, float]:
    top, total = float(values.max()), float(values.sum())
    shares = values / total if total else values
    return {
        "spectral_norm": top,
        "nuclear_norm": total,
        "stable_rank": float(values.square().sum()) / top**2 if top else 0.0,
        "effective_rank": float(torch.special.entr(shares).sum().exp()) if total else 0.0,
    }
