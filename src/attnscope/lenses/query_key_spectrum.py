"""The singular values of each head's query-key product of weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import Anatomy
from attnscope.lenses import Lens
from attnscope.lenses._spectra import QUERY_KEY, products, spectra_reading, why_no_product
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class QueryKeySpectrum(Lens):
    """The singular values of W_Q^T W_K of each head: which directions it can compare, and how strongly.

    **Measures** the singular values, largest first, of the d_model x d_model matrix that turns two tokens
    into a score, before scale and rotation (unit parameter^2). Computed from the factors: with QR of each
    factor, the singular values of the small product of the two triangles are the same. Low-rank adapters are
    added in.

    **Reading it** the first one is the spectral norm, their sum the nuclear norm. Read both beside `random`:
    the same for Gaussian factors of equal shape and norm. Stable rank well below random is what training does;
    1 means that the head compares along one direction only. All zero: a zero projection. Scaling queries by c
    and keys by 1/c leaves all of it unchanged. The nuclear share is near 1 for any random factors narrower than
    d_model, so it says little alone.

    **Shapes** [layer, head, direction]; NaN beyond the head's width and where the factors were not found. Facts,
    each per [layer][head]: `spectral_norm`, `nuclear_norm`, `stable_rank` (|.|_F^2 / |.|_2^2), `effective_rank`
    (exponential of the entropy of the singular values' shares), `nuclear_share`: nuclear norm over
    (|W_Q|^2 + |W_K|^2)/2; and `random`, a mapping of the same five for random factors.

    **Cost** two QR of d_head columns and one singular value decomposition of d_head x d_head per head, batched by
    layer, and the same once for random factors; no d_model^2 matrix.

    **Reference** Sheen et al. 2024, Implicit Regularization of Gradient Flow on One-Layer Softmax Attention,
    arXiv:2403.08699; Roy & Vetterli 2007 (effective rank).
    """

    unit: ClassVar[str] = "parameter^2"
    dims: ClassVar[tuple[str, ...]] = ("layer", "head", "direction")
    needs: ClassVar[tuple[str, ...]] = ("weights",)

    def applies_to(self, anatomy: Anatomy) -> str:
        """Needs both projections somewhere."""
        return why_no_product(anatomy, QUERY_KEY)

    def measure(self, probe: Probe) -> Reading:
        """The spectrum of each head."""
        why_none = why_no_product(probe.anatomy, QUERY_KEY) or "the form of the projections is not known"
        return spectra_reading(self, probe, products(probe, QUERY_KEY), why_none)
