"""Token types as keys: per type, the score it receives and the norm of what it would bring, over all batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from attnscope.anatomy.blocks import Attention, Kind
from attnscope.anatomy.observe import observe
from attnscope.lenses._parameters import head_matrix, named
from attnscope.lenses._rows import Rows, rows, score_cells
from attnscope.lenses._sequence import Sequence, predicted_sequence, sequences
from attnscope.probe import Probe

Array = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]
MOST_BATCHES = 32


@dataclass(frozen=True)
class TokenTypes:
    """What the token types of some batches get and bring in each attention.

    Attributes:
        ids: the types, in order of their ids.
        counts: `[type]`, real occurrences as a key, in the attention that sees most of them.
        scores: `[layer, type]`, mean score; NaN where the attention's keys are no tokens.
        norms: `[layer, type]`, mean norm of the value path.
    """

    ids: Ids
    counts: Ids
    scores: Array
    norms: Array

    def chosen(self, most: int) -> npt.NDArray[np.int64]:
        """The places of the most frequent types, in order of their ids."""
        order = np.lexsort((self.ids, -self.counts))[:most]
        return np.sort(order)


def single_batches(probe: Probe) -> Iterator[Probe]:
    """The probe of each batch by itself, at most `MOST_BATCHES`; nothing is run."""
    if len(probe.batches) == 1:
        yield probe
        return
    for batch in probe.batches[:MOST_BATCHES]:
        yield replace(probe, batches=(batch,), shared={})


@contextmanager
def moments(probe: Probe) -> Iterator[Iterator[Probe]]:
    """The same, each observed when its turn comes, with the model's state kept once for all of them."""
    if len(probe.batches) == 1:
        yield iter((probe,))
        return
    with probe.evaluating() as model:
        yield (_observed(moment, model) for moment in single_batches(probe))


def _observed(moment: Probe, model: nn.Module) -> Probe:
    # Stands where the cached property would put it, so that every reader of the probe finds it.
    moment.__dict__["observation"] = observe(
        model, moment.batch, anatomy=moment.anatomy, forward=moment.forward
    )
    return moment


def key_tokens(probe: Probe, index: int) -> Tensor | None:
    """`[batch, key]`: the token id of every key of one attention; None where keys are not single tokens."""
    attention = probe.anatomy.attentions[index]
    pattern = probe.observation.attentions[index].pattern
    size, length = pattern.shape[0], pattern.shape[3]
    for sequence in _read_by(probe, attention):
        ids = sequence.laid_out(sequence.tensor).detach().cpu().long()
        if ids.shape[-1] == length and ids.numel() == size * length:
            return ids.reshape(size, length)
    return None


def _read_by(probe: Probe, attention: Attention) -> list[Sequence]:
    """The token sequences that may be an attention's keys: the decoder's own for its self-attention."""
    found = [item for item in sequences(probe) if item.use == "tokens"]
    crossed = any(other.kind is Kind.CROSS for other in probe.anatomy.attentions)
    if crossed and attention.kind is Kind.SELF and attention.causal_source:
        own = predicted_sequence(probe)
        return [own] if own is not None and own.use == "tokens" else []
    return found[:1] if crossed else found


def token_types(probe: Probe) -> TokenTypes | None:
    """Scores and norms per token type, now; None when no attention's keys are tokens."""
    if "token types" not in probe.shared:
        probe.shared["token types"] = _summed(probe)
    found: TokenTypes | None = probe.shared["token types"]
    return found


def token_types_at_start(probe: Probe) -> TokenTypes | None:
    """The same with the parameters at the start of the run; None when they are not known."""
    if probe.start is None:
        return None
    if "token types at start" not in probe.shared:
        with at_start(probe) as started:
            probe.shared["token types at start"] = _summed(started)
    found: TokenTypes | None = probe.shared["token types at start"]
    return found


@contextmanager
def at_start(probe: Probe) -> Iterator[Probe]:
    """The probe with the parameters of the start of the run in its model, which is put back afterwards."""
    with probe.evaluating() as model, torch.no_grad():
        for name, parameter in model.named_parameters():
            if probe.start is not None and name in probe.start:
                parameter.copy_(probe.start[name])
        yield replace(probe, shared={})


def _summed(probe: Probe) -> TokenTypes | None:
    """One pass over the batches."""
    n_layers = len(probe.anatomy.attentions)
    with moments(probe) as each:
        held = [part for moment in each for part in _occurrences(moment)]
    if not held:
        return None
    every = np.unique(np.concatenate([ids for _, ids, *_ in held]))
    scores, norms = np.full((2, n_layers, len(every)), np.nan)
    counts = np.zeros((n_layers, len(every)), dtype=np.int64)
    for index in range(n_layers):
        mine = [part for part in held if part[0] == index]
        if not mine:
            continue
        places = np.searchsorted(every, np.concatenate([part[1] for part in mine]))
        counts[index] = np.bincount(places, minlength=len(every))
        scores[index] = _mean_by(places, np.concatenate([part[2] for part in mine]), len(every))
        if probe.anatomy.attentions[index].kind is Kind.LEARNED_QUERY and np.isfinite(scores[index]).any():
            scores[index] -= np.nanmean(scores[index])
        norms[index] = _mean_by(places, np.concatenate([part[3] for part in mine]), len(every))
    return TokenTypes(every, counts.max(0), scores, norms)


def _occurrences(moment: Probe) -> Iterator[tuple[int, Ids, Array, Array]]:
    """Per attention of one batch: the token id, mean score and norm of every real key."""
    for index, layer in enumerate(rows(moment)):
        ids = key_tokens(moment, index)
        if ids is None:
            continue
        real = torch.ones_like(ids, dtype=torch.bool) if layer.real.keys is None else layer.real.keys
        total, cells = _received(layer)
        mean = (total / cells.clamp(min=1)).masked_fill(cells == 0, float("nan"))
        brought = _brought(moment, layer)
        norm = torch.full(ids.shape, float("nan"), dtype=torch.float64) if brought is None else brought
        kept = real & (ids >= 0)
        yield index, ids[kept].numpy(), mean[kept].numpy(), norm[kept].numpy()


def _mean_by(places: Ids, values: Array, size: int) -> Array:
    """The mean of the finite values of each type."""
    finite = np.isfinite(values)
    total = np.bincount(places[finite], weights=values[finite], minlength=size)
    count = np.bincount(places[finite], minlength=size)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(count > 0, total / count, np.nan))


def _received(layer: Rows) -> tuple[Tensor, Tensor]:
    """`[batch, key]`: sum over heads and queries of the scores that each key gets, and how many there are.

    A constant that a query adds to all its keys changes nothing, so each query's mean is taken off. A learned
    query is the same in every example: its scores compare as they are, up to one constant for all types.
    """
    scores, cells = score_cells(layer)
    if layer.real.keys is not None:
        cells = cells & layer.real.keys[:, None, None, :]
    kept = torch.where(cells, scores, torch.zeros_like(scores))
    if layer.attention.kind is not Kind.LEARNED_QUERY:
        mean = kept.sum(-1, keepdim=True) / cells.sum(-1, keepdim=True).clamp(min=1)
        kept = torch.where(cells, scores - mean, torch.zeros_like(scores))
    return kept.sum((1, 2)), cells.double().sum((1, 2))


def _brought(probe: Probe, layer: Rows) -> Tensor | None:
    """`[batch, key]`: norm of what a key would add to the output if every head attended to it alone."""
    value = layer.tensors.value
    if value is None:
        return None
    value = value.detach().cpu().double()
    parameters = named(probe.model)
    out = [head_matrix(parameters, layer.attention, "output", head) for head in range(value.shape[1])]
    if any(matrix is None or matrix.shape[0] != value.shape[-1] for matrix in out):
        return value.square().sum((1, 3)).sqrt()
    written: Any = sum(value[:, head] @ matrix for head, matrix in enumerate(out) if matrix is not None)
    norms: Tensor = written.square().sum(-1).sqrt()
    return norms
