"""The gain of the norm before each attention, moved into the projections that read it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from attnscope.anatomy.blocks import Anatomy, Attention, ParameterSlice, Role
from attnscope.bench.controls import Control
from attnscope.bench.controls._weights import PRODUCTS, attentions_of, heads, pieces, projection
from attnscope.case import Case
from attnscope.faults import FaultError

ROLES = (Role.QUERY, Role.KEY, Role.VALUE)


@dataclass(frozen=True)
class NormFolded(Control):
    """Sets the gain of the norm before each attention to one and its offset to zero, and lets the projections do it.

    **Changes**: W to W diag(gain) and b to b + W offset for queries, keys and values. The optimiser is left out: its
    steps would not be those of the weights as they are now.

    **Why it is healthy**: a linear map of a scaled and shifted vector is a linear map of the vector.
    """

    @torch.no_grad()
    def change(self, case: Case, anatomy: Anatomy) -> None:
        """Folds."""
        work = [(item, _norm(anatomy, item)) for item in attentions_of(anatomy, *PRODUCTS)]
        maps = [[(heads(item, role), projection(anatomy, item, role)) for role in ROLES] for item, _ in work]
        named = {name: parameter.detach() for name, parameter in case.model.named_parameters()}
        for (item, norm), readers in zip(work, maps, strict=True):
            gain, *offset = (named[piece.parameter] for piece in norm)
            for cut, slices in readers:
                reads = 1 - (cut[0][0].dim or 0)  # the dimension that is not cut into heads
                weight, *bias = pieces(named, slices)
                if weight.ndim != 2 or len(bias) < len(offset):
                    raise FaultError(f"the projections of {item.name} cannot take in its norm")
                if offset:
                    bias[0].add_(torch.tensordot(weight, offset[0], dims=([reads], [0])))
                weight.mul_(gain if reads else gain.unsqueeze(1))
            gain.fill_(1.0)
            for part in offset:
                part.zero_()
        case.optimizer = None


def _norm(anatomy: Anatomy, attention: Attention) -> tuple[ParameterSlice, ...]:
    """Gain and offset of the norm that only this attention reads.

    Raises:
        FaultError: no norm stands before it.
    """
    if attention.norm_place != "pre" or not attention.norms:
        raise FaultError(f"no norm stands between the residual stream and {attention.name}")
    return anatomy.block(attention.norms[0]).slices
