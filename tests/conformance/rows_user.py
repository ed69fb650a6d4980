"""Truth of the attentions in `zoo_user`."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrizations

from . import zoo_layouts, zoo_user
from .rows_torch import attention, itself
from .rows_zoo import ADDED, INF, MASKED, REAL, SHARE, B, N, heads, row, truth, with_
from .truth import ANY, Mask, P, Row, Truth


def repeated() -> tuple[Truth, ...]:
    return tuple(truth(module="attention", **heads("attention."), residual=True, norm_place="pre") for _ in range(3))


def normed_weights() -> nn.Module:
    model = zoo_layouts.Plain()
    parametrizations.weight_norm(model.w_q)
    return model


def halves(dtype: torch.dtype) -> Row:
    return row(f"plain in {str(dtype).split('.')[1]}", lambda: zoo_layouts.Plain().to(dtype), truth(),
               batch=lambda: {"x": torch.randn(B, N, 32).to(dtype)})


LORA_QUERY = (P("w_q.weight"), P("w_q.bias"), P("a_q"), P("b_q"))
LORA_VALUE = (P("w_v.weight"), P("w_v.bias"), P("a_v"), P("b_v"))
ADJACENCY = torch.tensor([
    [1, 1, 0, 0, 1], [1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 1, 0], [1, 0, 0, 0, 1],
])
ROWS = [
    row("in place", zoo_user.InPlace, truth(masks=(Mask("add", -1e4, allowed_share=SHARE),), marks=MASKED),
        batch=with_(mask=ADDED)),
    row("where with a number", zoo_user.WhereNumber, truth(
        masks=(Mask("where", INF, allowed_share=SHARE),), marks=MASKED), batch=with_(mask=REAL)),
    row("logarithm of a mask", zoo_user.LogMask, truth(
        masks=(Mask("add", INF, allowed_share=SHARE),), marks=MASKED), batch=with_(mask=REAL)),
    row("exponential of log-softmax", zoo_user.LogSoftmax, truth()),
    row("Shaw's relative positions", zoo_user.Shaw, truth(positions=("relative bias",))),
    row("gated output", zoo_user.GatedOutput, truth(output=ANY, heads={
        role: both for role, both in heads()["heads"].items() if role != "output"})),
    row("head gains", zoo_user.HeadGates, truth(may_hold=("gain",), heads={
        role: both for role, both in heads()["heads"].items() if role != "output"})),
    row("low-rank by hand", zoo_user.HandLora, truth(query=LORA_QUERY, value=LORA_VALUE, heads={
        role: both for role, both in heads()["heads"].items() if role in ("key", "output")})),
    row("one layer three times", zoo_user.Repeated, *repeated()),
    *(row(f"checkpointed {'train' if train else 'eval'}", zoo_user.Checkpointed, truth(
        module="attention", **heads("attention."), residual=True), train=train) for train in (False, True)),
    row("graph attention", zoo_user.GraphAttention, Truth(
        module="", form="additive", kind="self", n_heads=3, n_queries=5, n_keys=5, batch_size=1, output=None,
        masks=(Mask("masked_fill", -1e9, causal=False, allowed_share=13 / 25),), marks=("softmax", "mask", "value"),
    ), batch=lambda: {"nodes": torch.randn(5, 10), "adjacency": ADJACENCY}),
    row("own autograd function", zoo_user.OwnFunction, truth(marks=())),
    row("autocast", zoo_user.Autocast, truth()),
    halves(torch.float64), halves(torch.bfloat16), halves(torch.float16),
    row("negative distance", zoo_user.NegativeDistance, truth(scale=2.0, marks=("scores", "softmax", "value"))),
    row("far skip connection", zoo_user.SkipAcross, truth(module="attention", **heads("attention."), norm_place=ANY)),
    row("weight norm on the query", normed_weights, truth(query=(
        P("w_q.parametrizations.weight.original0"), P("w_q.parametrizations.weight.original1"), P("w_q.bias")),
        heads={role: both for role, both in heads()["heads"].items() if role != "query"})),
    row("one example", zoo_layouts.Plain, truth(batch_size=1), batch=lambda: {"x": torch.randn(1, N, 32)}),
    row("one example, one head", lambda: zoo_layouts.Plain(8, 1), truth(
        batch_size=1, **heads("", 8, 8)), batch=lambda: {"x": torch.randn(1, N, 8)}),
    row("MultiheadAttention with extra key", lambda: nn.MultiheadAttention(
        32, 4, batch_first=True, add_bias_kv=True, add_zero_attn=True), attention(
            n_keys=9, heads={}, key=ANY, value=ANY, may_hold=("bias_k", "bias_v")), batch=itself()),
]
