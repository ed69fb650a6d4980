"""The singular values of each head's value-output product of weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import Anatomy
from attnscope.lenses import Lens
from attnscope.lenses._spectra import VALUE_OUTPUT, products, spectra_reading, why_no_product
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class ValueOutputSpectrum(Lens):
    """The singular values of W_V^T W_O of each head: what it copies from a token, and how strongly.

    **Measures** the singular values, largest first, of the d_model x d_model matrix that a head applies to the
    tokens it attends to (unit parameter^2), from the factors as in `query_key_spectrum`.

    **Reading it** as `query_key_spectrum`: beside `random`. A stable rank of 1 means that the head writes one
    direction only, whatever it reads. All zero: a dead head.

    **Shapes** [layer, head, direction]; NaN beyond the head's width and where the factors were not found. Facts,
    each per [layer][head]: `spectral_norm`, `nuclear_norm`, `stable_rank` (|.|_F^2 / |.|_2^2), `effective_rank`
    (exponential of the entropy of the singular values' shares), `nuclear_share`: nuclear norm over
    (|W_V|^2 + |W_O|^2)/2; and `random`, a mapping of the same five for random factors.

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
        return why_no_product(anatomy, VALUE_OUTPUT)

    def measure(self, probe: Probe) -> Reading:
        """The spectrum of each head."""
        why_none = why_no_product(probe.anatomy, VALUE_OUTPUT) or "the form of the projections is not known"
        return spectra_reading(self, probe, products(probe, VALUE_OUTPUT), why_none)
