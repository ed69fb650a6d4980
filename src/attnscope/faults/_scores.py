"""Retells how an attention makes its pattern, inside the user's own forward pass and above autograd.

A `TorchFunctionMode` watches the model's calls of torch functions. At an attention's softmax (or its fused
call) the calls that led from the query-key product to it are known; a fault gets the scores as they are
without the mask, what the mask forbids, and may return another pattern. Gradients follow what was really
computed.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from attnscope.anatomy.blocks import Anatomy, Attention, Form, Source
from attnscope.case import Case, default_forward

PRODUCTS = {"matmul", "__matmul__", "bmm", "baddbmm", "einsum", "linear", "mv"}
MASKS = {"masked_fill", "masked_fill_", "where"}
SUMS = {"add", "add_", "__add__", "__iadd__", "__radd__", "sub", "__sub__"}
SOFTMAX = {"softmax", "_softmax"}
ACTIVATIONS = {"tanh", "tanh_", "relu", "relu_", "sigmoid", "gelu", "silu"}
FUSED = {"scaled_dot_product_attention"}
FAR_BELOW = -1e3  # a score this much below its unmasked self is one that a mask pushed down


@dataclass
class Call:
    """One call of a torch function, and the calls that made its arguments."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    makers: list[Call | None]

    @property
    def name(self) -> str:
        """The function's bare name."""
        return getattr(self.function, "__name__", "")


@dataclass
class Scores:
    """What one attention does at its softmax.

    Attributes:
        layer: which attention.
        query, key: the operands of the score product; where there is no axis of queries, the learned one is the query.
        bare: scaled and biased scores, without the mask.
        forbidden: where the mask pushed a score down; None when there is no mask.
        normalise: the attention's own softmax, over its own dimension (another when one is given).
        remake: the scores made again from other operands, without the mask.
        training: whether the model is in train mode.
        pooled: whether there is no axis of queries (a HAN scores positions only).
        dim: the dimension that the softmax runs over, from 0.
        activated: of the activation that makes the keys: what enters it, what leaves it, and the keys made
            again from something else; None when there is none.
    """

    layer: int
    query: Tensor
    key: Tensor
    bare: Tensor
    forbidden: Tensor | None
    normalise: Callable[..., Tensor]
    remake: Callable[[Tensor, Tensor], Tensor]
    training: bool = False
    pooled: bool = False
    dim: int = -1
    activated: tuple[Tensor, Tensor, Callable[[Tensor], Tensor]] | None = None

    def masked(self, scores: Tensor | None = None, forbidden: Tensor | None = None) -> Tensor:
        """Scores with the mask applied: the attention's own unless others are given."""
        scores = self.bare if scores is None else scores
        forbidden = self.forbidden if forbidden is None else forbidden
        if forbidden is None:
            return scores
        return scores.masked_fill(forbidden, torch.finfo(scores.dtype).min)

    def padded_keys(self) -> Tensor | None:
        """Where a key is forbidden to every query of its example: the padding."""
        if self.forbidden is None or self.pooled:
            return self.forbidden
        return self.forbidden.all(-2, keepdim=True).expand_as(self.forbidden)

    def padding_mask(self) -> Tensor | None:
        """As `padded_keys`, but None when every key is allowed to some query."""
        padded = self.padded_keys()
        return padded if padded is not None and bool(padded.any()) else None


Tell = Callable[[Scores], Tensor]


@dataclass
class Watching(TorchFunctionMode):
    """The mode of one forward pass."""

    sites: Mapping[tuple[str, int], Sequence[int]]
    layers: frozenset[int]
    tell: Tell
    training: bool = False
    pooled: frozenset[int] = frozenset()
    makers: dict[int, Call] = field(default_factory=dict)
    alive: list[Any] = field(default_factory=list)
    seen: dict[tuple[str, int], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs the call, or the fault's version of it."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        layer = self._layer() if name in SOFTMAX | FUSED else None
        if layer in self.layers and layer is not None:
            if name in FUSED:
                return self._fused(layer, args, kwargs)
            told = self._softmax(layer, func, args, kwargs)
            if told is not None:
                return told
        output = func(*args, **kwargs)
        if isinstance(output, Tensor):
            tensors = [each for each in _flat(args, kwargs) if isinstance(each, Tensor)]
            call = Call(func, args, kwargs, [self.makers.get(id(each)) for each in tensors])
            self.makers[id(output)] = call
            self.alive.append((output, tensors))
        if layer is not None:
            self.makers.clear()
            self.alive.clear()
        return output

    def _layer(self) -> int | None:
        """Which attention the present call belongs to, by the user's line and how often it ran before."""
        frame: FrameType | None = sys._getframe(2)
        while frame is not None:
            site = (frame.f_code.co_filename, frame.f_lineno)
            if site in self.sites:
                number = self.seen.get(site, 0)
                self.seen[site] = number + 1
                layers = self.sites[site]
                return layers[number % len(layers)]
            frame = frame.f_back
        return None

    def _softmax(self, layer: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        scores = args[0] if args else kwargs["input"]
        path = _path_to_product(self.makers.get(id(scores)))
        if path is None:
            return None
        product, steps = path
        pooled = layer in self.pooled
        left, right = (each for each in product.args if isinstance(each, Tensor))
        learned_last = pooled and not isinstance(left, nn.Parameter)
        query, key = (right, left) if learned_last else (left, right)

        def remake(query: Tensor, key: Tensor) -> Tensor:
            fresh = iter((key, query) if learned_last else (query, key))
            again = tuple(next(fresh) if isinstance(each, Tensor) else each for each in product.args)
            return _run(product.function(*again, **product.kwargs), steps, with_mask=False)

        def normalise(told: Tensor, dim: int | None = None) -> Tensor:
            settings = dict(kwargs)
            settings.pop("input", None)
            settings.pop("_stacklevel", None)
            rest = args[1:]
            if dim is not None:
                settings["dim"] = dim
                rest = ()
            return func(told, *rest, **settings)  # type: ignore[no-any-return]

        bare = remake(query, key)
        forbidden = (scores.detach() - bare.detach()) < FAR_BELOW
        mask = forbidden if bool(forbidden.any()) else None
        dim = int(args[1] if len(args) > 1 else kwargs.get("dim", -1)) % scores.ndim
        activated = _activated(self.makers.get(id(key)))
        return self.tell(
            Scores(layer, query, key, bare, mask, normalise, remake, self.training, pooled, dim, activated)
        )

    def _fused(self, layer: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        query, key, value = given["query"], given["key"], given["value"]
        if key.shape[1] != query.shape[1] and key.ndim == 4:
            repeats = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
        scale = given.get("scale") or 1 / math.sqrt(query.shape[-1])
        mask, bias = given.get("attn_mask"), None
        forbidden: Tensor | None = None
        if given.get("is_causal"):
            ones = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device)
            forbidden = ones.triu(1)
        elif mask is not None and mask.dtype == torch.bool:
            forbidden = ~mask
        elif mask is not None:
            forbidden = mask < FAR_BELOW
            bias = mask.masked_fill(forbidden, 0.0)

        def remake(new_query: Tensor, new_key: Tensor) -> Tensor:
            scores: Tensor = new_query @ new_key.transpose(-2, -1) * scale
            return scores if bias is None else scores + bias

        def normalise(told: Tensor, dim: int | None = None) -> Tensor:
            return torch.softmax(told, dim=-1 if dim is None else dim)

        bare = remake(query, key)
        if forbidden is not None:
            forbidden = forbidden.expand_as(bare)
        dim = bare.ndim - 1
        found = Scores(layer, query, key, bare, forbidden, normalise, remake, self.training, dim=dim)
        pattern = self.tell(found)
        pattern = nn.functional.dropout(pattern, given.get("dropout_p", 0.0) or 0.0, training=True)
        context: Tensor = pattern @ value
        return context


def retell(model: nn.Module, anatomy: Anatomy, layers: Sequence[int], tell: Tell) -> None:
    """From now on the model's forward pass makes the patterns of these layers as `tell` says.

    The model gets a class of the same name with another `forward`, so copies of the model keep the change.
    """
    sites = sites_of(anatomy)
    original = type(model)
    chosen, pooled = frozenset(layers), pooled_of(anatomy)

    @functools.wraps(original.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with Watching(sites, chosen, tell, self.training, pooled):
            return original.forward(self, *args, **kwargs)

    body = {"forward": forward, "__module__": original.__module__, "__qualname__": original.__qualname__}
    model.__class__ = type(original.__name__, (original,), body)


def sites_of(anatomy: Anatomy) -> dict[tuple[str, int], list[int]]:
    """File and line of each softmax or fused call -> the layers that it serves, in order."""
    sites: dict[tuple[str, int], list[int]] = {}
    for attention in anatomy.attentions:
        source = site_of(attention)
        if source is not None:
            sites.setdefault((source.file, source.line), []).append(attention.layer)
    return sites


def pooled_of(anatomy: Anatomy) -> frozenset[int]:
    """The layers whose scores have no axis of queries."""
    forms = (Form.ADDITIVE, Form.POOLED, Form.LINEAR_QUERY)
    return frozenset(attention.layer for attention in anatomy.attentions if attention.form in forms)


def seen_scores(case: Case, anatomy: Anatomy, layer: int) -> Scores | None:
    """What one attention does on the case's first batch, in eval mode; None when its softmax is not seen."""
    found: list[Scores] = []

    def tell(scores: Scores) -> Tensor:
        found.append(scores)
        return scores.normalise(scores.masked())

    was_training = case.model.training
    case.model.eval()
    try:
        mode = Watching(sites_of(anatomy), frozenset((layer,)), tell, pooled=pooled_of(anatomy))
        with torch.no_grad(), torch.random.fork_rng(), mode:
            (case.forward or default_forward)(case.model, next(iter(case.batches)))
    finally:
        case.model.train(was_training)
    return found[0] if found else None


def heads_obstacle(case: Case, anatomy: Anatomy, attention: Attention) -> str:
    """Why the pattern cannot be retold head by head, or an empty string: two heads or more, on an axis of their own."""
    reason = obstacle_of(case, anatomy, attention.layer)
    seen = None if reason else seen_scores(case, anatomy, attention.layer)
    if reason or seen is None:
        return reason
    if attention.n_heads < 2:
        return "this attention has one head"
    has_axis = seen.bare.ndim == 4 and seen.bare.shape[1] == attention.n_heads
    return "" if has_axis else "the scores of this attention have no axis of heads"


def obstacle_of(case: Case, anatomy: Anatomy, layer: int, *, forbidden: str = "") -> str:
    """Why the pattern of a layer cannot be retold, or an empty string.

    Args:
        case: the case.
        anatomy: of its model.
        layer: which attention.
        forbidden: what the mask must forbid on the first batch: `padding`, `future`, `anything`, or nothing.
    """
    scores = seen_scores(case, anatomy, layer)
    if scores is None:
        return "the softmax of this attention, or the product before it, was not seen among the calls of torch"
    if not forbidden:
        return ""
    if scores.forbidden is None:
        return "this attention has no mask, or it forbids nothing on the first batch"
    padded = scores.padded_keys()
    if forbidden == "padding" and (padded is None or not bool(padded.any())):
        return "no key is padding on the first batch"
    if forbidden == "future" and padded is not None and not bool((scores.forbidden & ~padded).any()):
        return "this attention has no causal mask"
    return ""


def site_of(attention: Attention) -> Source | None:
    """The line of the softmax or of the fused call; None when it was not found."""
    if attention.softmax is not None and attention.softmax.source is not None:
        return attention.softmax.source
    return attention.value_step.source if attention.value_step is not None else None


def _flat(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    found: list[Any] = []
    for value in (*args, *kwargs.values()):
        found += list(value) if isinstance(value, list | tuple) else [value]
    return found


Step = tuple[Call, int]  # a call, and which of its tensor arguments carries the scores


def _path_to_product(call: Call | None, depth: int = 24) -> tuple[Call, list[Step]] | None:
    """The score product upstream, and the steps from it down to this call (this one last)."""
    if call is None or depth == 0:
        return None
    if call.name in PRODUCTS:
        operands = [each for each in call.args if isinstance(each, Tensor)]
        return (call, []) if len(operands) == 2 else None
    for place, maker in enumerate(call.makers):
        found = _path_to_product(maker, depth - 1)
        if found is not None:
            product, steps = found
            return product, [*steps, (call, place)]
    return None


def _activated(call: Call | None) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]] | None:
    """The nearest activation upstream: what enters, what leaves, and what the steps after it make of another."""
    steps: list[Step] = []
    while call is not None and call.name not in ACTIVATIONS:
        if call.name in PRODUCTS or not call.makers:
            return None
        steps.insert(0, (call, 0))
        call = call.makers[0]
    if call is None:
        return None
    entering = next(each for each in call.args if isinstance(each, Tensor))
    return entering, call.function(*call.args, **call.kwargs), lambda other: _run(other, steps, with_mask=True)


def _run(scores: Tensor, steps: Sequence[Step], *, with_mask: bool) -> Tensor:
    """The steps again on other scores, with or without those that apply a mask."""
    for call, place in steps:
        if not with_mask and _masks(call, place):
            continue
        count = -1
        args = []
        for value in call.args:
            count += isinstance(value, Tensor)
            args.append(scores if isinstance(value, Tensor) and count == place else value)
        scores = call.function(*args, **call.kwargs)
    return scores


def _masks(call: Call, place: int) -> bool:
    """Whether the call applies a mask: it fills, chooses, or adds a tensor that holds a very low number."""
    if call.name in MASKS:
        return True
    if call.name not in SUMS:
        return False
    others = [each for each in call.args if isinstance(each, Tensor)]
    added = [each for number, each in enumerate(others) if number != place]
    return any(each.numel() > 1 and bool((each.detach() < FAR_BELOW).any()) for each in added)
