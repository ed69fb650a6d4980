"""What the author intends, read from the model's masks and from the batch where it is not stated.

Everything here is inference and is reported as such, with the reason; a stated expectation always wins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from attnscope.anatomy.blocks import Attention, Kind, without_numbers
from attnscope.case import Expectations
from attnscope.probe import Probe
from attnscope.readings import Reading

_PADDING_KEYS = ("attention_mask", "padding_mask", "mask", "attn_mask", "src_mask", "input_mask")
READINGS = ("label_alignment", "rows_used")  # what is worth knowing before intentions are inferred
_IGNORED = -100  # the label that cross-entropy skips by default


def infer(probe: Probe, readings: Mapping[str, Reading] | None = None) -> tuple[Expectations, dict[str, str]]:
    """Fills in what the author did not state.

    Args:
        probe: the moment; its `expects` holds what is stated.
        readings: those of `READINGS` that were taken. `label_alignment` tells what the loss really asks for;
            without it the labels of the batch are compared with its tokens. `rows_used` tells of tables that
            have a row for every position.

    Returns:
        The expectations, and for each inferred one the reason in words.
    """
    expects = probe.expects
    taken = {name: reading for name, reading in (readings or {}).items() if reading.ok}
    because: dict[str, str] = {}
    if expects.padding_mask is None and expects.padding_token is None:
        found = _padding_mask(probe) or _padding_token(probe)
        if found is not None:
            name, value, why = found
            expects = replace(expects, **{name: value})
            because[name] = why
    if expects.next_token is None:
        why = _next_token(probe, taken.get("label_alignment"))
        if why:
            expects = replace(expects, next_token=True)
            because["next_token"] = why
    if expects.causal is None:
        causal, why = _causal(probe, bool(expects.next_token))
        if causal:
            expects = replace(expects, causal=causal)
            because["causal"] = why
    if expects.order_matters is None:
        why = _order_matters(probe, bool(expects.next_token), taken.get("rows_used"))
        if why:
            expects = replace(expects, order_matters=True)
            because["order_matters"] = why
    return expects, because


def tensors_of(batch: Any, path: str = "") -> Iterator[tuple[str, Any, Tensor]]:
    """Path, last key and tensor of every tensor in a batch."""
    if isinstance(batch, Tensor):
        yield path, None, batch
        return
    items: list[tuple[Any, Any]] = []
    if isinstance(batch, Mapping):
        items = list(batch.items())
    elif isinstance(batch, list | tuple):
        items = list(enumerate(batch))
    for key, value in items:
        inner = f"{path}[{key!r}]"
        if isinstance(value, Tensor):
            yield inner, key, value
        else:
            yield from tensors_of(value, inner)


def _tokens(probe: Probe) -> list[tuple[str, Tensor]]:
    """The tensors of the batch that index an embedding of tokens."""
    used = {item.path for item in probe.anatomy.inputs if item.use == "tokens"}
    return [
        (path, value)
        for path, _, value in tensors_of(probe.batch)
        if path in used and not value.is_floating_point() and value.ndim >= 1
    ]


def _padding_mask(probe: Probe) -> tuple[str, Any, str] | None:
    """A tensor of zeros and ones, both present, of the tokens' shape, that is 1 on real tokens."""
    uses = {item.path: item.use for item in probe.anatomy.inputs}
    tokens = _tokens(probe)
    for path, key, value in tensors_of(probe.batch):
        if key is None or value.ndim < 2 or not _is_binary(value):
            continue
        named = str(key) in _PADDING_KEYS
        if not (named or uses.get(path) == "mask"):
            continue
        fitting = [ids for _, ids in tokens if ids.shape == value.shape]
        if tokens and not fitting:
            continue
        real = value > 0.5 if value.is_floating_point() else value.bool()
        if fitting and not _one_is_real(fitting[0], real):
            continue
        if not fitting and not named:
            continue  # features: nothing tells which of the two values is padding
        how = "is used as a mask" if uses.get(path) == "mask" else "is named as one"
        return "padding_mask", key, f"the batch's {path} holds zeros and ones and {how}"
    return None


def _is_binary(value: Tensor) -> bool:
    if value.is_complex() or value.is_meta or value.numel() == 0:
        return False
    kinds = torch.unique(value.detach().float())
    return kinds.numel() == 2 and bool((kinds == torch.tensor([0.0, 1.0], device=kinds.device)).all())


def _one_is_real(ids: Tensor, real: Tensor) -> bool:
    """Whether 1 marks the real tokens: they are the more varied ones."""
    return int(torch.unique(ids[real]).numel()) >= int(torch.unique(ids[~real]).numel())


def _padding_token(probe: Probe) -> tuple[str, Any, str] | None:
    """A token that an embedding declares as padding and that ends (or begins) some of the texts."""
    declared = {
        int(module.padding_idx): name
        for name, module in probe.model.named_modules()
        if isinstance(module, nn.Embedding) and module.padding_idx is not None
    }
    for _, ids in _tokens(probe):
        for token, name in declared.items():
            pads = ids == token
            if bool(pads.any()) and not bool(pads.all()) and _at_the_ends(pads):
                return (
                    "padding_token",
                    token,
                    f"{name}.padding_idx is {token} and texts of the batch end in it",
                )
    return None


def _at_the_ends(pads: Tensor) -> bool:
    """Whether padding comes in one run at the end, or at the beginning, of every text."""
    rows = pads.reshape(-1, pads.shape[-1]).int()
    steps = rows.diff(dim=-1)
    right, left = bool((steps >= 0).all()), bool((steps <= 0).all())
    return right or left


def _next_token(probe: Probe, alignment: Reading | None) -> str:
    """The reason to believe that the targets are the next tokens; empty when there is none."""
    if alignment is not None:
        asked = alignment.facts.get("language_model") and alignment.facts.get("best") == 1
        return "the loss is least when the model names the next token" if asked else ""
    tokens = _tokens(probe)
    inputs = {path for path, _ in tokens}
    for path, _, value in tensors_of(probe.batch):
        if path in inputs or value.is_floating_point() or value.ndim < 2:
            continue
        for input_path, ids in tokens:
            if ids.shape != value.shape or ids.shape[-1] < 3:
                continue
            counted = value[..., :-1] != _IGNORED
            shifted = (value[..., :-1] == ids[..., 1:]) & counted
            if bool(counted.any()) and float(shifted.sum()) >= 0.99 * float(counted.sum()):
                return f"the batch's {path} holds the tokens of {input_path} moved by one"
    return ""


def _causal(probe: Probe, next_token: bool) -> tuple[dict[int, bool], str]:
    """Layer -> whether it must be causal, for the layers about which something tells."""
    attentions = [item for item in probe.anatomy.attentions if item.kind is Kind.SELF and item.n_queries > 1]
    seen = {item.layer: _seen_causal(probe, item) for item in attentions}
    expected: dict[int, bool] = {}
    reasons = []
    for item in attentions:
        stack = [other.layer for other in attentions if _stack(other) == _stack(item)]
        causal = [layer for layer in stack if seen[layer] == "exact"]
        if 2 * len(causal) >= len(stack):
            expected[item.layer] = True
            if seen[item.layer] != "exact":
                reasons.append(
                    f"{len(causal)} of the {len(stack)} attentions of {_stack(item) or 'the model'} are causal"
                )
        elif seen[item.layer] == "shifted":
            expected[item.layer] = True
            reasons.append("its mask allows the whole past and only a few positions ahead")
        elif next_token and _predicts(probe, item):
            expected[item.layer] = True
            reasons.append("the model is trained to predict the next token")
    why = "; ".join(dict.fromkeys(reasons)) or "the masks seen are causal"
    return expected, why


def _stack(attention: Attention) -> str:
    return without_numbers(attention.module)


def _seen_causal(probe: Probe, attention: Attention) -> str:
    """`exact` when the mask forbids the future, `shifted` when it lets a few positions through, else empty."""
    if attention.causal_source or any(step.causal for step in attention.mask):
        return "exact"
    position = probe.anatomy.attentions.index(attention)
    allowed = probe.observation.attentions[position].allowed
    n_queries, n_keys = attention.n_queries, attention.n_keys
    if (
        allowed is None
        or n_queries != n_keys
        or allowed.shape[-1] != n_keys
        or allowed.shape[-2] not in (1, n_queries)
    ):
        return ""
    anywhere = allowed.bool().reshape(-1, *allowed.shape[-2:]).any(0).expand(n_queries, n_keys)
    ahead = torch.arange(n_keys) - torch.arange(n_queries)[:, None]
    reach = int(ahead[anywhere.cpu()].max()) if bool(anywhere.any()) else 0
    past_is_open = bool(anywhere.cpu()[ahead < 0].float().mean() > 0.5)
    if reach <= 0:
        return "exact"
    band = bool(anywhere.cpu()[(ahead > 0) & (ahead <= reach)].all())
    return "shifted" if band and past_is_open and 2 * reach < n_keys else ""


def _predicts(probe: Probe, attention: Attention) -> bool:
    """Whether an attention is on the side that predicts: in an encoder-decoder only the decoder is."""
    crosses = [item for item in probe.anatomy.attentions if item.kind is Kind.CROSS]
    if not crosses:
        return True
    return any(_stack(item).split("#")[0] == _stack(attention).split("#")[0] for item in crosses)


def _order_matters(probe: Probe, next_token: bool, rows: Reading | None) -> str:
    """The reason to believe that the order of tokens matters; empty when there is none."""
    anatomy = probe.anatomy
    if any(set(item.positions) - {"none"} for item in anatomy.attentions):
        return "the model has positions"
    if any(block.role.value == "positions" for block in anatomy.blocks):
        return "the model has a parameter for positions"
    if rows is not None and rows.facts.get("same_everywhere"):
        return f"{rows.facts['same_everywhere'][0]} has a row for every position"
    if next_token and _tokens(probe):
        return "the model predicts the next token of a text"
    return ""
