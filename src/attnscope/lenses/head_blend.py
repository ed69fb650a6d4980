"""How much of each head's attention is another head's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attnscope.lenses import Lens
from attnscope.lenses._per_head import heads_reading
from attnscope.lenses._rows import Rows, rows
from attnscope.probe import Probe
from attnscope.readings import Reading

_ROUNDINGS = 64  # a weighted sum of a few softmaxes, in the precision of the pattern
_INDEPENDENT = 1e-3  # smallest over largest singular value: heads that look alike cannot be told apart


@dataclass(frozen=True)
class HeadBlend(Lens):
    """How much of what a head weighs its values with comes from the softmax of other heads.

    **Measures** the constants that make a head's pattern from the softmaxes of all heads of its layer, by least
    squares over every weight: the others' share of their absolute sum (unit 1).

    **Reading it** 0 where a head weighs with its own softmax, which is the usual. Between 0 and 1 where heads are
    mixed behind the softmax, as in talking heads; 1 where a head weighs with another's.

    **Shapes** [layer, head]. NaN where the layer has one head, where no constants make the pattern (something else
    happens behind the softmax), or where the heads' softmaxes are too alike to be told apart.

    **Cost** one forward pass, shared, and one least squares problem per layer that mixes.

    **Reference** Shazeer et al. 2020, Talking-Heads Attention, arXiv:2003.02436.
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("layer", "head")
    needs: ClassVar[tuple[str, ...]] = ("pattern",)

    def measure(self, probe: Probe) -> Reading:
        """The share of other heads in each."""
        return heads_reading(
            self, probe, [_shares(layer) for layer in rows(probe)], why_none="no layer has two heads to tell apart",
            facts={},
        )


def _shares(layer: Rows) -> Tensor | None:
    """Per head, what other heads' softmaxes contribute; None where nothing can be said."""
    own = layer.tensors.softmax_output.detach().cpu().double()
    n_heads = own.shape[1]
    if n_heads < 2 or own.shape != layer.pattern.shape or not bool(own.isfinite().all()):
        return None
    kept = layer.counts.all(1)
    made = layer.pattern.movedim(1, -1)[kept].reshape(-1, n_heads)  # [cell, head]
    given = own.movedim(1, -1)[kept].reshape(-1, n_heads)
    if torch.equal(made, given):
        return torch.zeros(n_heads, dtype=torch.float64)
    sizes = torch.linalg.svdvals(given) if len(given) >= 4 * n_heads else torch.zeros(1)
    if not bool(made.isfinite().all()) or not float(sizes[-1]) > _INDEPENDENT * float(sizes[0]):
        return None
    constants = torch.linalg.lstsq(given, made).solution  # [from, to]
    bound = _ROUNDINGS * torch.finfo(layer.tensors.pattern.dtype).eps / _INDEPENDENT
    explained = (given @ constants - made).abs().amax(0) <= bound * made.abs().amax(0)
    sums = constants.abs().sum(0)
    shares = (sums - constants.diagonal().abs()) / sums.clamp(min=torch.finfo(torch.float64).tiny)
    return torch.where(explained, shares, torch.nan)
