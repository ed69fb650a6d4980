"""Truth of additive, pooled and learned-query attentions, and of models that have no attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from . import zoo_pooled, zoo_sets
from .rows_zoo import INF, MARKS, REAL, SHARE, TOKENS, row
from .truth import Mask, P, Row, Truth

DOCUMENTS = torch.tensor(
    [
        [[5, 8, 3, 9, 12, 7], [4, 6, 11, 2, 0, 0], [0, 0, 0, 0, 0, 0]],
        [[9, 3, 7, 1, 2, 0], [6, 5, 4, 3, 2, 1], [8, 8, 2, 0, 0, 0]],
    ]
)
PADDED = torch.tensor([[4, 9, 1, 7, 2, 0, 0], [5, 3, 8, 2, 9, 6, 1], [7, 7, 1, 4, 6, 2, 0]])
POOLED = ("scores", "softmax", "value")
ONE: dict[str, Any] = {
    "form": "additive",
    "kind": "learned-query",
    "n_heads": 1,
    "value": None,
    "output": None,
    "n_queries": 1,
    "residual": False,
    "norm_place": "none",
    "marks": POOLED,
}


def word_attention(name: str, **more: Any) -> Truth:
    parts = (P(f"{name}.project.weight"), P(f"{name}.project.bias"), P(f"{name}.context"))
    return Truth(**{**ONE, "module": name, "scoring": parts, "marks": (*POOLED, "mask"), **more})


HAN = (
    word_attention(
        "word_attention", masks=(Mask("masked_fill", -1e9, allowed_share=24 / 36),), n_keys=6, batch_size=6
    ),
    word_attention(
        "sentence_attention", masks=(Mask("masked_fill", INF, allowed_share=5 / 6),), n_keys=3, batch_size=2
    ),
)

ADDITIVE = [
    *(
        row(
            f"HAN {'packed' if packed else 'padded'} {'train' if train else 'eval'}",
            lambda packed=packed: zoo_pooled.Han(packed),
            *HAN,
            batch=lambda: DOCUMENTS,
            train=train,
        )
        for packed in (True, False)
        for train in (False, True)
    ),
    row(
        "HAN linear",
        zoo_pooled.HanLinear,
        Truth(
            **{
                **ONE,
                "module": "",
                "softmax_dim": -2,
                "n_keys": 7,
                "batch_size": 3,
                "marks": (*POOLED, "mask"),
                "scoring": (P("project.weight"), P("project.bias"), P("context.weight")),
                "masks": (Mask("multiply", 0.0, "after_softmax", allowed_share=SHARE),),
            }
        ),
        batch=lambda: PADDED,
    ),
    row(
        "gated pooling of a bag",
        zoo_pooled.GatedPooling,
        Truth(
            **{
                **ONE,
                "module": "",
                "form": "pooled",
                "n_keys": 9,
                "scoring": tuple(P(f"{name}.{what}") for name in "VUw" for what in ("weight", "bias")),
            }
        ),
        batch=lambda: torch.randn(9, 20),
    ),
    row(
        "gated pooling of padded bags",
        zoo_pooled.GatedBatch,
        Truth(
            **{
                **ONE,
                "module": "",
                "form": "pooled",
                "n_keys": 7,
                "batch_size": 3,
                "marks": (*POOLED, "mask"),
                "scoring": tuple(P(f"{name}.{what}") for name in "VUw" for what in ("weight", "bias")),
                "masks": (Mask("masked_fill", INF, allowed_share=SHARE),),
            }
        ),
        batch=lambda: {"x": torch.randn(3, 7, 18), "mask": REAL},
    ),
    row(
        "linear query",
        zoo_pooled.LinearQuery,
        Truth(
            **{
                **ONE,
                "module": "",
                "form": "linear-query",
                "n_keys": 7,
                "batch_size": 3,
                "scoring": (P("score.weight"), P("score.bias")),
            }
        ),
        batch=lambda: torch.randn(3, 7, 10),
    ),
    row(
        "Bahdanau",
        zoo_pooled.Bahdanau,
        Truth(
            **{
                **ONE,
                "module": "",
                "kind": "cross",
                "n_queries": 4,
                "n_keys": 7,
                "batch_size": 2,
                "scoring": (P("W_query.weight"), P("W_key.weight"), P("W_key.bias"), P("v.weight")),
            }
        ),
        batch=lambda: {"source": torch.randn(2, 7, 10), "target": torch.randn(2, 4, 6)},
    ),
    row(
        "Luong",
        zoo_pooled.Luong,
        Truth(
            **{
                **ONE,
                "module": "",
                "form": "dot-product",
                "kind": "cross",
                "n_queries": 4,
                "n_keys": 7,
                "batch_size": 2,
                "scoring": (P("W.weight"),),
                "d_head": 14,
                "scale": 1.0,
            }
        ),
        batch=lambda: {"source": torch.randn(2, 7, 10), "target": torch.randn(2, 4, 6)},
    ),
]


def mab(name: str, kind: str, n_queries: int, n_keys: int, seed: str = "") -> Truth:
    """A block of the set transformer; the scale is by the model's width, not the head's."""
    known: dict[str, Any] = {"heads": {}}
    for role in ("query", "key", "value"):
        names = [f"{name}.fc_{role[0]}.{what}" for what in ("weight", "bias")]
        known[role] = tuple(map(P, names))
        known["heads"][role] = tuple(tuple(P(one, 0, (cut,)) for one in names) for cut in ((0, 8), (16, 24)))
    return Truth(
        module=name,
        form="dot-product",
        kind=kind,
        n_heads=3,
        d_head=8,
        scale=24**-0.5,
        marks=MARKS,
        n_queries=n_queries,
        n_keys=n_keys,
        batch_size=2,
        may_hold=(seed,) if seed else (),
        **known,
    )


def latent(name: str, kind: str, n_heads: int, d_head: int, n_keys: int, **more: Any) -> Truth:
    width = n_heads * d_head
    return Truth(
        module=name,
        form="dot-product",
        kind=kind,
        n_heads=n_heads,
        d_head=d_head,
        scale=d_head**-0.5,
        query=(P(f"{name}.to_q.weight"),),
        key=(P(f"{name}.to_kv.weight", 0, ((0, width),)),),
        value=(P(f"{name}.to_kv.weight", 0, ((width, 2 * width),)),),
        output=(P(f"{name}.to_out.weight"), P(f"{name}.to_out.bias")),
        heads={
            "query": (
                (P(f"{name}.to_q.weight", 0, ((0, d_head),)),),
                (P(f"{name}.to_q.weight", 0, ((width - d_head, width),)),),
            ),
            "value": (
                (P(f"{name}.to_kv.weight", 0, ((width, width + d_head),)),),
                (P(f"{name}.to_kv.weight", 0, ((2 * width - d_head, 2 * width),)),),
            ),
            "output": (
                (P(f"{name}.to_out.weight", 1, ((0, d_head),)),),
                (P(f"{name}.to_out.weight", 1, ((width - d_head, width),)),),
            ),
        },
        n_queries=5,
        n_keys=n_keys,
        batch_size=3,
        residual=True,
        norm_place="pre",
        marks=(*MARKS, "residual"),
        **more,
    )


def conv(name: str) -> tuple[P, P]:
    return P(f"{name}.weight"), P(f"{name}.bias")


SETS = [
    row(
        "set transformer",
        zoo_sets.SetTransformer,
        mab("mab_0", "learned-query", 5, 7, "inducing"),
        mab("mab_1", "cross", 7, 5),
        mab("pool", "learned-query", 2, 7, "seed"),
        batch=lambda: torch.randn(2, 7, 10),
    ),
    row(
        "perceiver",
        zoo_sets.Perceiver,
        latent("read", "learned-query", 2, 7, 9, may_hold=("latents",)),
        latent("think", "self", 4, 6, 5),
        batch=lambda: torch.randn(3, 9, 14),
        unused=("think.norm_input.weight", "think.norm_input.bias"),  # it attends to itself
    ),
    row(
        "a parameter is the queries",
        zoo_sets.DirectQueries,
        Truth(
            module="",
            form="dot-product",
            kind="learned-query",
            n_heads=1,
            d_head=16,
            d_value=10,
            scale=0.25,
            query=(P("queries"),),
            key=conv("key"),
            value=conv("value"),
            n_queries=3,
            n_keys=7,
            batch_size=4,
            marks=MARKS,
        ),
        batch=lambda: torch.randn(4, 7, 16),
    ),
    *(
        row(
            f"volume cross-attention {'train' if train else 'eval'}",
            zoo_sets.VolumeCrossAttention,
            Truth(
                module="",
                form="dot-product",
                kind="cross",
                n_heads=1,
                d_head=6,
                d_value=12,
                scale=6**-0.5,
                query=conv("query"),
                key=conv("key"),
                value=conv("value"),
                output=conv("project"),
                may_hold=("gamma",),
                residual=True,
                n_queries=32,
                n_keys=12,
                batch_size=2,
                marks=(*MARKS, "residual"),
            ),
            batch=lambda: {"first": torch.randn(2, 1, 2, 4, 4), "second": torch.randn(2, 1, 4, 4, 6)},
            train=train,
        )
        for train in (False, True)
    ),
    row(
        "volume heads",
        zoo_sets.VolumeHeads,
        Truth(
            module="",
            form="dot-product",
            kind="self",
            n_heads=3,
            d_head=4,
            scale=0.5,
            query=(P("qkv.weight", 0, ((0, 12),)),),
            key=(P("qkv.weight", 0, ((12, 24),)),),
            value=(P("qkv.weight", 0, ((24, 36),)),),
            output=conv("project"),
            heads={
                "query": ((P("qkv.weight", 0, ((0, 4),)),), (P("qkv.weight", 0, ((8, 12),)),)),
                "key": ((P("qkv.weight", 0, ((12, 16),)),), (P("qkv.weight", 0, ((20, 24),)),)),
                "output": ((P("project.weight", 1, ((0, 4),)),), (P("project.weight", 1, ((8, 12),)),)),
            },
            residual=False,
            norm_place="none",
            n_queries=18,
            n_keys=18,
            batch_size=2,
            marks=MARKS,
        ),
        batch=lambda: torch.randn(2, 12, 2, 3, 3),
    ),
]


def recurrent() -> nn.Module:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(30, 9)
            self.lstm = nn.LSTM(9, 11, num_layers=2, batch_first=True)
            self.out = nn.Linear(11, 4)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.out(self.lstm(self.embed(tokens))[0][:, -1]).softmax(-1)

    return Recurrent()


def mamba() -> tuple[nn.Module, Any]:
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    config = MambaConfig(vocab_size=40, hidden_size=16, state_size=4, num_hidden_layers=2, use_cache=False)
    return MambaForCausalLM(config), {"input_ids": TOKENS}


NONE = [
    row("state space block", zoo_sets.StateSpace, batch=lambda: TOKENS),
    row("plain CNN", zoo_sets.PlainCnn, batch=lambda: torch.randn(2, 3, 6, 6)),
    row("experts with softmax gates", zoo_sets.Experts, batch=lambda: torch.randn(2, 5, 12)),
    row("experts, all sizes equal", lambda: zoo_sets.Experts(4, 4), batch=lambda: torch.randn(4, 4, 4)),
    row("LSTM classifier", recurrent, batch=lambda: TOKENS),
    Row("Mamba", mamba, ()),
]
ROWS = [*ADDITIVE, *SETS, *NONE]
