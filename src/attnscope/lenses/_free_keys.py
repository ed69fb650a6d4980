"""Attention whose keys are a free table: a score per word that no other parameter shares, as in a bag of words.

Where it is found the dynamics obey laws that can be tested on the parameters alone (Lu et al., arXiv:2011.10036).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attnscope.anatomy.blocks import Kind, Role
from attnscope.lenses._parameters import flat, named
from attnscope.lenses._token_types import Array, key_tokens
from attnscope.probe import Probe

_TOLERANCE = 1e-4  # relative error at which the observed scores still are table times query, in any precision


@dataclass(frozen=True)
class FreeKeys:
    """Names of the key table `[word, d_key]` and of the block of the query `[d_key]`."""

    table: str
    query: str

    def scores(self, probe: Probe, parameters: Mapping[str, Tensor]) -> Array:
        """`[word]`: the score of every word of the vocabulary under these parameters."""
        query = flat(parameters, probe.anatomy.block(self.query))
        return np.asarray((parameters[self.table].detach().cpu().double() @ query).numpy())

    def query_norm(self, probe: Probe, parameters: Mapping[str, Tensor]) -> float:
        """||q||."""
        return float(flat(parameters, probe.anatomy.block(self.query)).norm())

    def known_in(self, probe: Probe, parameters: Mapping[str, Tensor]) -> bool:
        """Whether these parameters hold table and query (a start may lack some)."""
        names = [self.table, *(piece.parameter for piece in probe.anatomy.block(self.query).slices)]
        return all(name in parameters for name in names)


def free_keys(probe: Probe, index: int) -> FreeKeys | None:
    """The free keys of one attention, found by what they give and not by their names; None when there are none.

    Of several tables that fit (all of them zero, say) none is taken.
    """
    attention = probe.anatomy.attentions[index]
    name = attention.blocks.get("query")
    ids = key_tokens(probe, index)
    if attention.kind is not Kind.LEARNED_QUERY or name is None or ids is None or "key" in attention.blocks:
        return None
    parameters = named(probe.model)
    query = flat(parameters, probe.anatomy.block(name))
    tensors = probe.observation.attentions[index]
    seen = tensors.scores.detach().cpu().double()
    if seen.shape[1] != 1 or seen.shape[2] != 1:
        return None
    cells = torch.isfinite(seen[:, 0, 0]) & (ids >= 0)
    if tensors.allowed is not None:
        cells = cells & tensors.allowed.detach().cpu().bool()[:, 0, 0]
    values = tensors.value
    fitting = []
    for block in probe.anatomy.blocks:
        if block.role is not Role.EMBEDDING or len(block.slices) != 1 or block.slices[0].dim is not None:
            continue
        shape = block.slices[0].shape
        if len(shape) != 2 or shape[1] != query.numel() or int(ids.max()) >= shape[0]:
            continue
        table = parameters[block.slices[0].parameter].cpu().double()
        apart = (table[ids.clamp(min=0)] @ query - seen[:, 0, 0])[cells].abs()
        size = float(table.norm(dim=1).max() * query.norm())
        if not apart.numel() or not float(apart.max()) <= _TOLERANCE * size:
            continue
        if values is not None and values.shape[-1] == shape[1]:
            rows = values.detach().cpu().double()[:, 0]
            if torch.allclose(rows, table[ids.clamp(min=0)], rtol=_TOLERANCE, atol=0.0) and bool(rows.any()):
                continue  # keys and values are one table
        fitting.append(FreeKeys(block.slices[0].parameter, name))
    return fitting[0] if len(fitting) == 1 else None


def identity_norm(
    scores: Array, m: float | Array, *, start_score: float | Array = 0.0, start_norm: float | Array = 0.0,
    rate_ratio: float = 1.0,
) -> npt.NDArray[np.float64]:
    """||q|| ||v|| that the identity gives for a score.

    [s + exp(s) / m] since the start = rate_ratio / 2 [||q||^2 ||v||^2] since the start, where `rate_ratio` is
    the keys' learning rate over the embeddings' (1 in the paper, arXiv:2011.10036, section 3).

    Args:
        scores: any shape.
        m: words beside the topic word in a sentence (or the mean of it, per word).
        start_score: score at the start.
        start_norm: ||q|| ||v|| at the start.
        rate_ratio: see above.
    """
    risen = (scores - start_score) + (np.exp(scores) - np.exp(start_score)) / m
    return np.asarray(np.sqrt((2 * risen / rate_ratio + np.square(start_norm)).clip(min=0)))
