"""Probes made by hand: causal or padded dot-product attentions whose every tensor is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from attnscope.anatomy.blocks import (
    Anatomy,
    Attention,
    Block,
    Form,
    InputTensor,
    Kind,
    ParameterSlice,
    Role,
    block_name,
)
from attnscope.anatomy.observe import AttentionTensors, Observation
from attnscope.case import Expectations
from attnscope.probe import Probe

PAD = 0
ROLES = {"query": Role.QUERY, "key": Role.KEY, "value": Role.VALUE, "output": Role.OUTPUT}


class Projections(nn.Module):
    """The four projections of one layer; it never runs, its parameters are what lenses of weights read."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        for role in ROLES:
            setattr(self, role, nn.Linear(d_model, d_model))


class Stack(nn.Module):
    def __init__(self, n_layers: int, d_model: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Projections(d_model) for _ in range(n_layers))
        self.norm = nn.LayerNorm(d_model)


def tokens(lengths: Sequence[int] = (6, 4, 5), vocabulary: int = 11) -> Tensor:
    """[batch, position], padded with 0 on the right."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randint(1, vocabulary, (len(lengths), max(lengths)), generator=generator)
    for row, length in enumerate(lengths):
        rows[row, length:] = PAD
    return rows


def anatomy(model: Stack, n_heads: int, **more: Any) -> Anatomy:
    """What a trace would say about `Stack`."""
    d_model = model.norm.weight.numel()
    width = d_model // n_heads
    attentions, blocks = [], []
    for layer, module in enumerate(model.layers):
        prefix = f"layers.{layer}"
        head_slices = {}
        for name, role in ROLES.items():
            weight = ParameterSlice(f"{prefix}.{name}.weight", (d_model, d_model))
            bias = ParameterSlice(f"{prefix}.{name}.bias", (d_model,))
            blocks.append(Block(block_name(layer, role), role, (weight, bias), layer=layer))
            cut = 1 if name == "output" else 0
            head_slices[name] = tuple(
                tuple(
                    ParameterSlice(piece.parameter, piece.shape, dim, ((head * width, (head + 1) * width),))
                    for piece, dim in ((weight, cut), (bias, 0))
                    if name != "output" or piece is weight
                )
                for head in range(n_heads)
            )
        attentions.append(Attention(**{
            **dict(
                layer=layer, module=prefix, module_class=type(module).__name__, form=Form.DOT_PRODUCT,
                kind=Kind.SELF, n_heads=n_heads, n_key_heads=n_heads, d_head=width, d_value=width,
                blocks={name: block_name(layer, role) for name, role in ROLES.items()},
                head_slices=head_slices, scale=width**-0.5, expected_scale=width**-0.5,
            ), **more,
        }))
    blocks.append(Block("norm", Role.NORM, (
        ParameterSlice("norm.weight", (d_model,)), ParameterSlice("norm.bias", (d_model,)))))
    return Anatomy(
        model_class="Stack", attentions=tuple(attentions), blocks=tuple(blocks),
        inputs=(InputTensor("['input_ids']", (3, 6), "int64", "tokens"),),
    )


def tensors(
    module: Projections, hidden: Tensor, n_heads: int, *, scale: float | None = None,
    allowed: Tensor | None = None, bias: Tensor | None = None, layer: int = 0,
) -> AttentionTensors:
    """A layer's tensors, computed step by step from its projections."""
    batch, length, d_model = hidden.shape
    width = d_model // n_heads

    def heads(projection: nn.Linear) -> Tensor:
        return projection(hidden).view(batch, length, n_heads, width).transpose(1, 2)

    with torch.no_grad():
        query, key, value = heads(module.query), heads(module.key), heads(module.value)
        raw = query @ key.transpose(-1, -2)
        scores = raw * (width**-0.5 if scale is None else scale)
        if bias is not None:
            scores = scores + bias
        if allowed is not None:
            scores = scores.masked_fill(~allowed, -torch.inf)
        pattern = scores.softmax(-1)
        context = pattern @ value
        output = module.output(context.transpose(1, 2).flatten(2))
    return AttentionTensors(
        layer=layer, query=query, key=key, value=value, raw_scores=raw, scores=scores, pattern=pattern,
        softmax_output=pattern, allowed=allowed, context=context, hidden=hidden, output=output,
    )


def with_pattern(
    one: AttentionTensors, pattern: Tensor, *, allowed: Tensor | None = None
) -> AttentionTensors:
    """The same layer with another pattern, and scores that lead to it."""
    value = one.value
    return AttentionTensors(
        layer=one.layer, query=one.query, key=one.key, value=value, raw_scores=one.raw_scores,
        scores=pattern.log(), pattern=pattern, softmax_output=pattern, allowed=allowed,
        context=None if value is None else pattern @ value, hidden=one.hidden, output=one.output,
    )


def causal(length: int = 6) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool).tril()[None, None]


def padding(ids: Tensor) -> Tensor:
    return (ids != PAD)[:, None, None, :]


def probe(
    model: Stack, layers: Sequence[AttentionTensors], ids: Tensor, *, n_heads: int,
    expects: dict[str, Any] | None = None, **more: Any,
) -> Probe:
    """A probe whose observation is what is passed in."""
    made = Probe(
        model=model, batches=({"input_ids": ids},), anatomy=anatomy(model, n_heads, **more),
        expects=Expectations.of({"padding_token": PAD} if expects is None else expects),
    )
    made.__dict__["observation"] = Observation(attentions=tuple(layers), output=None)
    return made


def standard(
    *, n_layers: int = 2, n_heads: int = 3, d_model: int = 12, allowed: Tensor | None = None,
    seed: int = 0, expects: dict[str, Any] | None = None, scale: float | None = None,
    bias: Tensor | None = None, **more: Any,
) -> Probe:
    """A healthy padded encoder of random weights (or a causal one, with `allowed=causal()`)."""
    torch.manual_seed(seed)
    model = Stack(n_layers, d_model)
    ids = tokens()
    mask = padding(ids) if allowed is None else allowed
    layers = [
        tensors(
            module, torch.randn(*ids.shape, d_model), n_heads, allowed=mask, layer=layer, scale=scale,
            bias=bias,
        )
        for layer, module in enumerate(model.layers)
    ]
    return probe(model, layers, ids, n_heads=n_heads, expects=expects, **more)


def altered(made: Probe, layer: int = 0, **changes: Any) -> Probe:
    """The same probe with some tensors of one layer exchanged."""
    layers = list(made.observation.attentions)
    layers[layer] = replace(layers[layer], **changes)
    other = replace(made)
    other.__dict__["observation"] = Observation(attentions=tuple(layers), output=None)
    return other
