"""Truth of torch's own attentions: nn.MultiheadAttention, nn.TransformerEncoder, nn.Transformer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .rows_zoo import CAUSAL, EIGHTH, INF, REAL, SHARE, TOKENS, row
from .truth import ANY, Mask, P, Truth
from .zoo_layouts import BatchLast

ADDED = ("add", "masked_fill", "where", "sdpa_bool", "sdpa_float")
EITHER = ("dot-product", "fused")  # which kernel torch takes depends on the mode; both are true to the user


def projections(prefix: str = "", d_model: int = 32, d_head: int = 8) -> dict[str, Any]:
    """The fused projection of nn.MultiheadAttention: three stacked matrices, then out_proj."""
    known: dict[str, Any] = {"heads": {}}
    for number, role in enumerate(("query", "key", "value")):
        start = number * d_model
        names = [f"{prefix}in_proj_weight", f"{prefix}in_proj_bias"]
        known[role] = tuple(P(name, 0, ((start, start + d_model),)) for name in names)
        known["heads"][role] = (
            tuple(P(name, 0, ((start, start + d_head),)) for name in names),
            tuple(P(name, 0, ((start + d_model - d_head, start + d_model),)) for name in names),
        )
    known["output"] = (P(f"{prefix}out_proj.weight"), P(f"{prefix}out_proj.bias"))
    known["heads"]["output"] = (
        (P(f"{prefix}out_proj.weight", 1, ((0, d_head),)),),
        (P(f"{prefix}out_proj.weight", 1, ((d_model - d_head, d_model),)),),
    )
    return known


def attention(module: str = "", **changes: Any) -> Truth:
    facts: dict[str, Any] = {
        "module": module,
        "form": EITHER,
        "kind": "self",
        "n_heads": 4,
        "d_head": 8,
        "scale": EIGHTH,
        "residual": False,
        "norm_place": "none",
        "n_queries": 7,
        "n_keys": 7,
        "batch_size": 3,
        "softmax_dim": ANY,
        **projections(f"{module}." if module else ""),
    }
    return Truth(**{**facts, **changes})


def itself(batch_first: bool = True, need_weights: bool = True, **more: Any) -> Callable[[], dict[str, Any]]:
    def make() -> dict[str, Any]:
        x = torch.randn(3, 7, 32) if batch_first else torch.randn(7, 3, 32)
        return {"query": x, "key": x, "value": x, "need_weights": need_weights, **more}

    return make


FUTURE = torch.ones(7, 7, dtype=torch.bool).triu(1)
PADDING = Mask(ADDED, (INF, None), causal=False, allowed_share=SHARE)
OTHER_WIDTHS: dict[str, Any] = {
    "kind": "cross",
    "n_keys": 5,
    "query": (P("q_proj_weight"), P("in_proj_bias", 0, ((0, 32),))),
    "key": (P("k_proj_weight"), P("in_proj_bias", 0, ((32, 64),))),
    "value": (P("v_proj_weight"), P("in_proj_bias", 0, ((64, 96),))),
    "heads": {
        "key": (
            (P("k_proj_weight", 0, ((0, 8),)), P("in_proj_bias", 0, ((32, 40),))),
            (P("k_proj_weight", 0, ((24, 32),)), P("in_proj_bias", 0, ((56, 64),))),
        ),
        "output": ((P("out_proj.weight", 1, ((0, 8),)),), (P("out_proj.weight", 1, ((24, 32),)),)),
    },
}


def other_widths() -> dict[str, Tensor]:
    return {"query": torch.randn(3, 7, 32), "key": torch.randn(3, 5, 20), "value": torch.randn(3, 5, 24)}


MULTIHEAD = (
    [
        row(
            f"MultiheadAttention {'weights' if weights else 'fused'}{'' if first else ' sequence first'}"
            f"{' train' if train else ' eval'}",
            lambda first=first: nn.MultiheadAttention(32, 4, dropout=0.2, batch_first=first),
            attention(  # a bare module does not say which axis is the batch: either layout is fair
                head_layout="ok" if first else ("ok", "examples mixed"),
                form="dot-product" if weights and train else "fused" if train else EITHER,
                dropout=(("pattern", 0.2),),
            ),
            batch=itself(first, weights),
            train=train,
        )
        for weights in (True, False)
        for first in (True, False)
        for train in (False, True)
    ]
    + [
        row(
            f"MultiheadAttention padded {'weights' if weights else 'fused'}{' train' if train else ' eval'}",
            lambda: nn.MultiheadAttention(32, 4, batch_first=True),
            attention(masks=(PADDING,)),
            batch=itself(True, weights, key_padding_mask=~REAL),
            train=train,
        )
        for weights in (True, False)
        for train in (False, True)
    ]
    + [
        row(
            f"MultiheadAttention causal {'weights' if weights else 'fused'}{' train' if train else ' eval'}",
            lambda: nn.MultiheadAttention(32, 4, batch_first=True),
            attention(masks=(Mask(ADDED, (INF, None), causal=True, allowed_share=CAUSAL),), causal=True),
            batch=itself(True, weights, attn_mask=FUTURE),
            train=train,
        )
        for weights in (True, False)
        for train in (False, True)
    ]
    + [
        row(
            f"MultiheadAttention other widths {'train' if train else 'eval'}",
            lambda: nn.MultiheadAttention(32, 4, kdim=20, vdim=24, batch_first=True),
            attention(**OTHER_WIDTHS),
            batch=other_widths,
            train=train,
        )
        for train in (False, True)
    ]
    + [
        row(
            "MultiheadAttention all sizes equal",
            lambda: nn.MultiheadAttention(16, 4, batch_first=True),
            attention(d_head=4, scale=0.5, n_queries=4, n_keys=4, batch_size=4, **projections("", 16, 4)),
            batch=lambda: dict.fromkeys(("query", "key", "value"), torch.randn(4, 4, 16)),
        ),
        row(
            "batch and positions turned",
            lambda: BatchLast(True),
            attention("attention"),
            batch=lambda: TOKENS,
        ),
        row(
            "batch taken for positions",
            lambda: BatchLast(False),
            attention("attention", head_layout="examples mixed", n_queries=3, n_keys=3, batch_size=7),
            batch=lambda: TOKENS,
        ),
    ]
)


def encoder(norm_first: bool = False, final_norm: bool = False) -> nn.Module:
    layer = nn.TransformerEncoderLayer(32, 4, 48, dropout=0.2, batch_first=True, norm_first=norm_first)
    return nn.TransformerEncoder(
        layer, 2, norm=nn.LayerNorm(32) if final_norm else None, enable_nested_tensor=not norm_first
    )


def layers(place: str, **more: Any) -> tuple[Truth, Truth]:
    first, second = (
        attention(
            f"layers.{number}.self_attn", residual=True, norm_place=place, dropout=(("pattern", 0.2),), **more
        )
        for number in range(2)
    )
    return first, second


def source(**more: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {"src": torch.randn(3, 7, 32), **more}


ENCODERS = [
    row(
        f"TransformerEncoder {place}-norm {'train' if train else 'eval'}{' padded' if padded else ''}",
        lambda place=place: encoder(place == "pre", place == "pre"),
        *layers(place, masks=(PADDING,) if padded else ()),
        batch=source(**({"src_key_padding_mask": ~REAL} if padded else {})),
        train=train,
    )
    for place in ("post", "pre")
    for train in (False, True)
    for padded in (False, True)
] + [
    row(
        f"TransformerEncoder causal {'train' if train else 'eval'}",
        encoder,
        *layers(
            "post",
            masks=(Mask((*ADDED, "is_causal"), (INF, None), causal=True, allowed_share=CAUSAL),),
            causal=True,
        ),
        batch=source(mask=nn.Transformer.generate_square_subsequent_mask(7), is_causal=True),
        train=train,
    )
    for train in (False, True)
]


def whole(module: str, **more: Any) -> Truth:
    return attention(module, residual=True, norm_place="post", dropout=(("pattern", 0.2),), **more)


TRANSFORMER = [
    row(
        f"Transformer {'train' if train else 'eval'}",
        lambda: nn.Transformer(32, 4, 1, 2, 48, dropout=0.2, batch_first=True),
        whole("encoder.layers.0.self_attn"),
        *(
            truth
            for number in range(2)
            for truth in (
                whole(
                    f"decoder.layers.{number}.self_attn",
                    n_queries=5,
                    n_keys=5,
                    causal=True,
                    masks=(Mask((*ADDED, "is_causal"), (INF, None), causal=True, allowed_share=15 / 25),),
                ),
                whole(f"decoder.layers.{number}.multihead_attn", kind="cross", n_queries=5),
            )
        ),
        batch=lambda: {
            "src": torch.randn(3, 7, 32),
            "tgt": torch.randn(3, 5, 32),
            "tgt_mask": nn.Transformer.generate_square_subsequent_mask(5),
        },
        train=train,
    )
    for train in (False, True)
]
ROWS = [*MULTIHEAD, *ENCODERS, *TRANSFORMER]
