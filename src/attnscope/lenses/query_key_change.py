"""The singular values of what training changed in each head's query-key product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import Anatomy
from attnscope.lenses import Lens
from attnscope.lenses._spectra import QUERY_KEY, changes, spectra_reading, why_no_product
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class QueryKeyChange(Lens):
    """The singular values of the change of W_Q^T W_K since training began: in how many directions it learned.

    **Measures** the singular values, largest first, of W_Q^T W_K less what it was before the first step (unit
    parameter^2), from factors of twice the head's width; a difference of large products is never formed.

    **Reading it** beside `random`: the same start moved as far, W_Q and W_K each, in a random direction. Gradient
    descent prefers changes of low rank, so a stable rank of 1 to 3 where random has ten is usual; Muon and sign
    descent do not share that. All zero: the head has not moved. `nuclear_share` says how large the change is
    beside the weights.

    **Shapes** [layer, head, direction]; NaN beyond twice the head's width and where the factors were not found.
    Facts, each per [layer][head]: `spectral_norm`, `nuclear_norm`, `stable_rank` (|.|_F^2 / |.|_2^2), `effective_rank`
    (exponential of the entropy of the singular values' shares), `nuclear_share`: nuclear norm over
    (|W_Q|^2 + |W_K|^2)/2 of today's weights; and `random`, a mapping of the same five for random factors.

    **Cost** two QR of 2 d_head columns and one singular value decomposition of 2 d_head x 2 d_head per head, batched
    by layer, and the same for the random change; no d_model^2 matrix.

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
        """The spectrum of each head's change."""
        if probe.start is None:
            return self.not_applicable("the weights before training are not known; pass Case(..., start=...)")
        why_none = "the start lacks the projections, or their form is not known"
        return spectra_reading(self, probe, changes(probe, QUERY_KEY), why_none)
