"""Which tokens are real: what the author says about padding, laid out as each attention sees it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from attnscope.anatomy.blocks import Attention, Kind
from attnscope.probe import Probe

_STEP = re.compile(r"\[\s*(?:'([^']*)'|\"([^\"]*)\"|(\d+))\s*\]|\.(\w+)")


@dataclass(frozen=True)
class RealTokens:
    """True where a token is real: `queries` is [batch, query], `keys` is [batch, key]; None when unknown."""

    queries: Tensor | None
    keys: Tensor | None


def real_tokens(probe: Probe, index: int) -> RealTokens:
    """The real tokens on both sides of one attention, in that attention's own layout.

    A padding mask of the batch, when the author names one, is trusted before a padding token. A mask of
    [document, sentence, word] serves both an attention over words (its batch axis is document x sentence) and
    one over sentences (a sentence is real when any of its words is).

    Args:
        probe: the moment.
        index: position in `anatomy.attentions`.

    Returns:
        The masks; a side that no statement of the author reaches is None.
    """
    attention = probe.anatomy.attentions[index]
    shape = probe.observation.attentions[index].pattern.shape
    batch_size, n_queries, n_keys = shape[0], shape[2], shape[3]
    masks = _masks(probe)
    is_decoder = _is_decoder(probe, attention)
    keys = _laid_out(masks[1:] if is_decoder else masks, batch_size, n_keys)
    if attention.kind is Kind.SELF:
        return RealTokens(queries=keys if n_queries == n_keys else None, keys=keys)
    if attention.kind is Kind.CROSS:
        return RealTokens(queries=_laid_out(masks[1:], batch_size, n_queries), keys=keys)
    return RealTokens(queries=None, keys=keys)


def _is_decoder(probe: Probe, attention: Attention) -> bool:
    """Whether a self-attention belongs to the decoder of an encoder-decoder: its tokens are not the first."""
    crosses = any(other.kind is Kind.CROSS for other in probe.anatomy.attentions)
    return crosses and attention.kind is Kind.SELF and bool(attention.causal_source)


def _masks(probe: Probe) -> list[Tensor]:
    """Every statement about real tokens, encoder side first: bool, in the layout of the batch."""
    expects = probe.expects
    masks: list[Tensor] = []
    if expects.padding_mask is not None:
        stated = _entry(probe.batch, expects.padding_mask)
        if isinstance(stated, Tensor):
            stated = stated.detach().cpu()
            masks.append((stated > 0.5) if stated.dtype.is_floating_point else stated.bool())
    if expects.padding_token is not None:
        tokens = [
            value.detach().cpu() != expects.padding_token
            for item in probe.anatomy.inputs
            if item.use == "tokens" and isinstance(value := follow(probe.batch, item.path), Tensor)
        ]
        masks += tokens[1:] if masks else tokens
    return masks


def _laid_out(masks: list[Tensor], batch_size: int, length: int) -> Tensor | None:
    """The first mask that fits [batch, length], reshaped to it."""
    for mask in masks:
        if mask.ndim == 4 and mask.shape[1] == mask.shape[2] == 1:
            mask = mask[:, 0, 0]
        if mask.ndim >= 1 and mask.shape[-1] == length and mask.numel() == batch_size * length:
            return mask.reshape(batch_size, length)
        if mask.ndim == 3 and tuple(mask.shape[:2]) == (batch_size, length):
            return mask.any(-1)
    return None


def _entry(batch: Any, key: str | int) -> Any:
    """`batch[key]`, or the same in the inputs of an (inputs, targets) pair; None when there is none."""
    places = [batch]
    if isinstance(batch, list | tuple) and len(batch) == 2:
        places.insert(0, batch[0])
    for place in places:
        if isinstance(place, Mapping) and key in place:
            return place[key]
        if isinstance(place, list | tuple) and isinstance(key, int) and -len(place) <= key < len(place):
            return place[key]
    return None


def follow(batch: Any, path: str) -> Any:
    """The tensor at a path such as `['input_ids']` or `[0].tokens`; None when the path leads nowhere."""
    value = batch
    for match in _STEP.finditer(path):
        single, double, number, attribute = match.groups()
        key: Any = int(number) if number is not None else single if single is not None else double
        try:
            value = getattr(value, attribute) if attribute is not None else value[key]
        except (KeyError, IndexError, TypeError, AttributeError):
            return None
    return value
