"""Truth of the hand-written dot-product attentions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from . import zoo_layouts, zoo_masks, zoo_scores
from .truth import ANY, Mask, P, Row, Truth

B, N = 3, 7
REAL = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [1] * 7, [1, 1, 1, 1, 1, 1, 0]], dtype=torch.bool)
SHARE = 18 / 21  # of the keys of REAL are allowed
CAUSAL = 4 / 7  # 28 of 49
EIGHTH = 8**-0.5
INF = float("-inf")


def heads(prefix: str = "", d_model: int = 32, d_head: int = 8, bias: bool = True) -> dict[str, Any]:
    """The projections of `zoo_scores.Heads`: rows of w_q, w_k, w_v, columns of w_o."""
    first, last = ((0, d_head),), ((d_model - d_head, d_model),)
    known: dict[str, Any] = {"n_heads": d_model // d_head, "d_head": d_head, "heads": {}}
    for role in ("query", "key", "value"):
        names = [f"{prefix}w_{role[0]}.{what}" for what in (("weight", "bias") if bias else ("weight",))]
        known[role] = tuple(P(name) for name in names)
        known["heads"][role] = tuple(tuple(P(name, 0, cut) for name in names) for cut in (first, last))
    known["output"] = (P(f"{prefix}w_o.weight"), *((P(f"{prefix}w_o.bias"),) if bias else ()))
    known["heads"]["output"] = tuple((P(f"{prefix}w_o.weight", 1, cut),) for cut in (first, last))
    return known


PLAIN: dict[str, Any] = {
    "module": "", "form": "dot-product", "kind": "self", "scale": EIGHTH,
    "residual": False, "norm_place": "none", "n_queries": N, "n_keys": N, "batch_size": B, **heads(),
}
MARKS = ("scores", "scale", "softmax", "value")


def truth(**changes: Any) -> Truth:
    return Truth(**{**PLAIN, "marks": MARKS, **changes})


def row(
    name: str, model: Callable[[], nn.Module], *truths: Truth,
    batch: Callable[[], Any] | None = None, **more: Any,
) -> Row:
    def make() -> tuple[nn.Module, Any]:
        torch.manual_seed(0)
        return model(), {"x": torch.randn(B, N, 32)} if batch is None else batch()

    return Row(name, make, tuple(truths), **more)


def with_(**extra: Tensor) -> Callable[[], dict[str, Tensor]]:
    return lambda: {"x": torch.randn(B, N, 32), **extra}


def same_sizes() -> dict[str, Tensor]:
    return {"x": torch.randn(4, 4, 16)}


ADDED = torch.zeros(B, 1, 1, N).masked_fill(~REAL[:, None, None], -1e4)
TOKENS = torch.tensor([[4, 9, 1, 7, 2, 8, 3], [5, 3, 8, 2, 9, 6, 1], [7, 7, 1, 4, 6, 2, 5]])
MASKED = (*MARKS, "mask")
ONE_PADDED = torch.zeros(4, 1, 1, 4)
ONE_PADDED[1, 0, 0, 3] = -1e4
SMALL = {**heads("", 16, 4), "scale": 0.5, "n_queries": 4, "n_keys": 4, "batch_size": 4}

SCORES = [
    row("einsum", zoo_scores.Einsum, truth(
        masks=(Mask("masked_fill", INF, causal=False, allowed_share=SHARE),), marks=MASKED,
    ), batch=with_(mask=REAL)),
    row("einsum weights", zoo_scores.EinsumWeights, truth(
        d_head=6, scale=6**-0.5,
        query=(P("W_Q"), P("b_Q")), key=(P("W_K"),), value=(P("W_V"),), output=(P("W_O"), P("b_O")),
        heads={
            "query": ((P("W_Q", 0, ((0, 1),)), P("b_Q", 0, ((0, 1),))),
                      (P("W_Q", 0, ((3, 4),)), P("b_Q", 0, ((3, 4),)))),
            "key": ((P("W_K", 0, ((0, 1),)),), (P("W_K", 0, ((3, 4),)),)),
            "value": ((P("W_V", 0, ((0, 1),)),), (P("W_V", 0, ((3, 4),)),)),
            "output": ((P("W_O", 0, ((0, 1),)),), (P("W_O", 0, ((3, 4),)),)),
        },
        masks=(Mask("where", -1e9, allowed_share=SHARE),), marks=MASKED,
    ), batch=with_(mask=REAL)),
    row("bmm", zoo_scores.Bmm, truth(masks=(Mask("add", -1e4, allowed_share=SHARE),), marks=MASKED),
        batch=with_(bias=ADDED)),
    row("baddbmm", zoo_scores.Baddbmm, truth(masks=(Mask("add", -1e4, allowed_share=SHARE),), marks=MASKED),
        batch=with_(bias=ADDED)),
    *(row(f"fused chunks {'train' if train else 'eval'}", lambda: zoo_scores.Chunked(dropout=0.3), truth(
        query=(P("qkv.weight", 0, ((0, 32),)), P("qkv.bias", 0, ((0, 32),))),
        key=(P("qkv.weight", 0, ((32, 64),)), P("qkv.bias", 0, ((32, 64),))),
        value=(P("qkv.weight", 0, ((64, 96),)), P("qkv.bias", 0, ((64, 96),))),
        output=(P("out.weight"), P("out.bias")),
        heads={
            "query": ((P("qkv.weight", 0, ((0, 8),)), P("qkv.bias", 0, ((0, 8),))),
                      (P("qkv.weight", 0, ((24, 32),)), P("qkv.bias", 0, ((24, 32),)))),
            "value": ((P("qkv.weight", 0, ((64, 72),)), P("qkv.bias", 0, ((64, 72),))),
                      (P("qkv.weight", 0, ((88, 96),)), P("qkv.bias", 0, ((88, 96),)))),
            "output": ((P("out.weight", 1, ((0, 8),)),), (P("out.weight", 1, ((24, 32),)),)),
        },
        masks=(Mask("masked_fill", INF, causal=True, allowed_share=CAUSAL),), causal=True,
        dropout=(("pattern", 0.3),), marks=(*MASKED, "dropout") if train else MASKED,
    ), train=train) for train in (False, True)),
    row("fused interleaved", zoo_scores.Interleaved, truth(
        query=(P("qkv.weight", 0, ((0, 8), (24, 32), (48, 56), (72, 80))),
               P("qkv.bias", 0, ((0, 8), (24, 32), (48, 56), (72, 80)))),
        key=(P("qkv.weight", 0, ((8, 16), (32, 40), (56, 64), (80, 88))),
             P("qkv.bias", 0, ((8, 16), (32, 40), (56, 64), (80, 88)))),
        value=(P("qkv.weight", 0, ((16, 24), (40, 48), (64, 72), (88, 96))),
               P("qkv.bias", 0, ((16, 24), (40, 48), (64, 72), (88, 96)))),
        output=(P("out.weight"), P("out.bias")),
        heads={
            "query": ((P("qkv.weight", 0, ((0, 8),)), P("qkv.bias", 0, ((0, 8),))),
                      (P("qkv.weight", 0, ((72, 80),)), P("qkv.bias", 0, ((72, 80),)))),
            "key": ((P("qkv.weight", 0, ((8, 16),)), P("qkv.bias", 0, ((8, 16),))),
                    (P("qkv.weight", 0, ((80, 88),)), P("qkv.bias", 0, ((80, 88),)))),
            "output": ((P("out.weight", 1, ((0, 8),)),), (P("out.weight", 1, ((24, 32),)),)),
        },
    )),
    row("heads fastest", zoo_scores.HeadsFastest, truth(
        query=(P("qkv.weight", 0, ((0, 32),)),), key=(P("qkv.weight", 0, ((32, 64),)),),
        value=(P("qkv.weight", 0, ((64, 96),)),), output=(P("out.weight"),),
        heads={
            "query": ((P("qkv.weight", 0, tuple((r, r + 1) for r in range(0, 32, 4))),),
                      (P("qkv.weight", 0, tuple((r, r + 1) for r in range(3, 32, 4))),)),
            "value": ((P("qkv.weight", 0, tuple((r, r + 1) for r in range(64, 96, 4))),),
                      (P("qkv.weight", 0, tuple((r, r + 1) for r in range(67, 96, 4))),)),
            "output": ((P("out.weight", 1, tuple((r, r + 1) for r in range(0, 32, 4))),),
                       (P("out.weight", 1, tuple((r, r + 1) for r in range(3, 32, 4))),)),
        },
    )),
    row("heads looped", zoo_scores.Looped, truth()),
    row("heads in a list", zoo_scores.ModuleListHeads, truth(
        query=tuple(P(f"heads.{h}.query.weight") for h in range(4)),
        key=tuple(P(f"heads.{h}.key.weight") for h in range(4)),
        value=tuple(P(f"heads.{h}.value.weight") for h in range(4)),
        output=(P("proj.weight"), P("proj.bias")),
        heads={
            "query": ((P("heads.0.query.weight"),), (P("heads.3.query.weight"),)),
            "value": ((P("heads.0.value.weight"),), (P("heads.3.value.weight"),)),
            "output": ((P("proj.weight", 1, ((0, 8),)),), (P("proj.weight", 1, ((24, 32),)),)),
        },
        module=("", "heads", "heads.0"), marks=(),
        masks=(Mask("masked_fill", INF, causal=True, allowed_share=CAUSAL),), causal=True,
    )),
    row("scale on both sides", zoo_scores.ScaledBoth, truth()),
    row("no scale", zoo_scores.NoScale, truth(scale=1.0, marks=("scores", "softmax", "value"))),
    *(row(f"heads lead the batch {'train' if train else 'eval'}", zoo_scores.NestedHeads, truth(
        module=("attention", ""), masks=(Mask("masked_fill", -1e10, allowed_share=SHARE),),
        residual=True, norm_place="post", softmax_dim=-1, dropout=(("pattern", 0.25),),
        marks=(*MASKED, "dropout") if train else MASKED,
    ), batch=with_(padding=~REAL), train=train) for train in (False, True)),
    row("all sizes equal", lambda: zoo_layouts.Plain(16), truth(**SMALL), batch=same_sizes),
    row("all sizes equal, scale on the query", lambda: zoo_scores.Bmm(16), truth(
        **SMALL, masks=(Mask("add", -1e4, allowed_share=15 / 16),), marks=MASKED,
    ), batch=lambda: {**same_sizes(), "bias": ONE_PADDED}),
    row("all sizes equal, fused", lambda: zoo_scores.Chunked(16), truth(**{
        **SMALL, "heads": {},
        "query": (P("qkv.weight", 0, ((0, 16),)), P("qkv.bias", 0, ((0, 16),))),
        "key": (P("qkv.weight", 0, ((16, 32),)), P("qkv.bias", 0, ((16, 32),))),
        "value": (P("qkv.weight", 0, ((32, 48),)), P("qkv.bias", 0, ((32, 48),))),
        "output": (P("out.weight"), P("out.bias")),
    }, masks=(Mask("masked_fill", INF, causal=True, allowed_share=10 / 16),), causal=True), batch=same_sizes),
]

MASKS = [
    row("mask multiplied before", zoo_masks.WeakMask, truth(
        masks=(Mask("multiply", 0.0, allowed_share=SHARE),), marks=MASKED), batch=with_(mask=REAL.float())),
    row("mask multiplied after", zoo_masks.MaskAfter, truth(
        masks=(Mask("multiply", 0.0, "after_softmax", allowed_share=SHARE),), marks=MASKED),
        batch=with_(mask=REAL.float())),
    row("mask filled after", zoo_masks.FillAfter, truth(
        masks=(Mask("masked_fill", 0.0, "after_softmax", causal=True, allowed_share=CAUSAL),), marks=MASKED,
        causal=True)),
    row("two masks", zoo_masks.TwoMasks, truth(
        masks=(Mask("add", INF, causal=True, allowed_share=CAUSAL),
               Mask("masked_fill", -1e4, allowed_share=SHARE)),
        causal=True, marks=MASKED), batch=with_(mask=REAL)),
    row("mask computed", zoo_masks.ComputedMask, truth(
        masks=(Mask("add", -1e4, causal=False, allowed_share=SHARE),), marks=MASKED),
        batch=with_(mask=REAL.long())),
    row("mask through an index", zoo_masks.IndexedMask, truth(
        masks=(Mask(("masked_fill", "where", "index_put"), INF, allowed_share=SHARE),), marks=MASKED),
        batch=with_(mask=REAL)),
    row("softmax by hand", zoo_masks.HandSoftmax, truth(
        masks=(Mask("masked_fill", -1e9, allowed_share=SHARE),), marks=MASKED), batch=with_(mask=REAL)),
    row("transposed scores", zoo_masks.TransposedScores, truth(kind="cross", softmax_dim=-2, n_keys=5),
        batch=with_(memory=torch.linspace(-2, 2, B * 5 * 32).view(B, 5, 32).sin())),
    row("softmax over queries", lambda: zoo_masks.WrongAxis(-2), truth(
        softmax_over="queries", softmax_dim=-2)),
    row("softmax over heads", lambda: zoo_masks.WrongAxis(1), truth(softmax_over="heads", softmax_dim=-3)),
    row("softmax over the batch", lambda: zoo_masks.WrongAxis(0), truth(
        softmax_over="batch", softmax_dim=-4)),
    row("softmax over queries, all sizes equal", lambda: zoo_masks.WrongAxis(-2, 16), truth(
        **SMALL, softmax_over="queries", softmax_dim=-2), batch=same_sizes),
    row("softmax over heads, all sizes equal", lambda: zoo_masks.WrongAxis(1, 16), truth(
        **SMALL, softmax_over="heads", softmax_dim=-3), batch=same_sizes),
    row("softmax twice", zoo_masks.SoftmaxTwice, truth(softmax_applications=2)),
    row("sigmoid", zoo_masks.SigmoidWeights, truth(normaliser="sigmoid", softmax_over=ANY, softmax_dim=ANY)),
    *(row(f"dropout on scores {'train' if train else 'eval'}", zoo_masks.DropoutBefore, truth(
        dropout=(("scores", 0.15),), marks=(*MARKS, "dropout") if train else MARKS), train=train)
      for train in (False, True)),
    row("classifier softmax", zoo_masks.Classify, truth(
        module="attention", **heads("attention."), softmax_applications=2), batch=lambda: TOKENS),
]

KERNELS = [
    row(f"kernel {mask}{' train' * train}", lambda mask=mask: zoo_masks.Kernel(mask, None, 0.2), truth(
        form="fused", marks=("scores", "value"), causal=mask != "none", dropout=(("pattern", 0.2),),
        masks=() if mask == "none" else (
            Mask("is_causal" if mask == "causal" else f"sdpa_{mask}", causal=True, allowed_share=CAUSAL),),
    ), train=train)
    for mask in ("none", "causal", "bool", "float") for train in (False, True)
] + [row("kernel with a scale", lambda: zoo_masks.Kernel("causal", scale=0.6), truth(
    form="fused", scale=0.6, marks=("scores", "value"), causal=True,
    masks=(Mask("is_causal", causal=True, allowed_share=CAUSAL),)))]


def in_block(place: str, residual: bool = True, **more: Any) -> Truth:
    return truth(**{
        **heads("attention."), "module": "attention", "residual": residual, "norm_place": place, **more})


def grouped(n_key_heads: int, last: tuple[int, int]) -> Truth:
    return truth(
        n_key_heads=n_key_heads, query=(P("q.weight"),), key=(P("k.weight"),), value=(P("v.weight"),),
        output=(P("o.weight"),),
        heads={
            "query": ((P("q.weight", 0, ((0, 8),)),), (P("q.weight", 0, ((24, 32),)),)),
            "key": ((P("k.weight", 0, ((0, 8),)),), (P("k.weight", 0, (last,)),)),
            "value": ((P("v.weight", 0, ((0, 8),)),), (P("v.weight", 0, (last,)),)),
            "output": ((P("o.weight", 1, ((0, 8),)),), (P("o.weight", 1, ((24, 32),)),)),
        })


def embedded(positions: tuple[str, ...]) -> Truth:
    return truth(**{
        **heads("block.attention."), "module": "block.attention", "residual": True, "norm_place": "pre",
        "positions": positions})


LAYOUTS = [
    row("pre-norm block", lambda: zoo_layouts.Block("pre"), in_block("pre")),
    row("post-norm block", lambda: zoo_layouts.Block("post"), in_block("post")),
    row("pre-norm, residual dropped", lambda: zoo_layouts.Block("pre", False), in_block("pre", False)),
    row("post-norm, residual dropped", lambda: zoo_layouts.Block("post", False), in_block(ANY, False)),
    row("residual inside", zoo_layouts.InnerResidual, truth(residual=True, marks=(*MARKS, "residual"))),
    row("learned positions", zoo_layouts.TokensAndPositions, embedded(("absolute",)), batch=lambda: TOKENS),
    row("sinusoidal positions", lambda: zoo_layouts.TokensAndPositions("sinusoid"), embedded(("absolute",)),
        batch=lambda: TOKENS),
    row("no positions", lambda: zoo_layouts.TokensAndPositions("none"), embedded(()), batch=lambda: TOKENS),
    row("rotary pairs", zoo_layouts.Rotary, truth(positions=("rotary",), rotary_sides=("query", "key"))),
    row("rotary on values too", lambda: zoo_layouts.Rotary(("query", "key", "value")), truth(
        positions=("rotary",), rotary_sides=("query", "key", "value"))),
    row("rotary on the query only", lambda: zoo_layouts.Rotary(("query",)), truth(
        positions=("rotary",), rotary_sides=("query",))),
    row("linear bias by distance", zoo_layouts.Alibi, truth(
        positions=("relative bias",), masks=(Mask("masked_fill", INF, causal=True, allowed_share=CAUSAL),),
        causal=True, marks=MASKED)),
    row("grouped heads", lambda: zoo_layouts.GroupedHeads(2), grouped(2, (8, 16))),
    row("one key head", lambda: zoo_layouts.GroupedHeads(1), grouped(1, (0, 8))),
    row("talking heads", zoo_layouts.TalkingHeads, truth()),
    row("split without transpose", zoo_layouts.PositionsMixed, truth(
        head_layout="positions mixed", heads={}, n_queries=N)),
    row("merge without transpose", zoo_layouts.MergeMixed, truth(
        head_layout="positions mixed",
        heads={role: both for role, both in heads()["heads"].items() if role != "output"})),
    row("windows", zoo_layouts.Windows, truth(
        n_heads=3, query=(P("qkv.weight", 0, ((0, 24),)), P("qkv.bias", 0, ((0, 24),))),
        key=(P("qkv.weight", 0, ((24, 48),)), P("qkv.bias", 0, ((24, 48),))),
        value=(P("qkv.weight", 0, ((48, 72),)), P("qkv.bias", 0, ((48, 72),))),
        output=(P("proj.weight"), P("proj.bias")), heads={
            "key": ((P("qkv.weight", 0, ((24, 32),)), P("qkv.bias", 0, ((24, 32),))),
                    (P("qkv.weight", 0, ((40, 48),)), P("qkv.bias", 0, ((40, 48),))))},
        positions=("relative bias",), n_queries=4, n_keys=4, batch_size=4,
    ), batch=lambda: {"x": torch.randn(2, 8, 24)}),
    row("across time", zoo_layouts.AcrossTime, truth(n_queries=5, n_keys=5, batch_size=6),
        batch=lambda: {"x": torch.randn(2, 5, 3, 32)}),
    row("cosine heads", zoo_layouts.CosineHeads, truth(
        scale=9.0, may_hold=("temperature",))),
]
ROWS = [*SCORES, *MASKS, *KERNELS, *LAYOUTS]
assert math.isclose(float(REAL.float().mean()), SHARE, rel_tol=1e-6)
