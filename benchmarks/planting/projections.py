"""Planted mistakes: heads, projections, residual path, normalisation, and what crosses examples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from attnscope.case import Case
from planting.editing import Edit
from planting.huggingface import by_fault_in_library, in_library
from planting.huggingface import healthy as healthy_library
from planting.planted import Planted, Truth
from planting.small import by_fault, healthy, in_code

EXAMPLES: dict[str, Any] = {
    "rules": ("examples_mixed",),
    "places": ("L*.heads", "L*.scores", "L*.softmax", "model", "data", "L*"),
}
HEADS: dict[str, Any] = {"rules": ("heads_mixed",), "places": ("L*.heads", "L*")}
SHARED: dict[str, Any] = {"rules": ("shared_by_mistake",), "places": ("L*", "blocks*")}
RESIDUAL: dict[str, Any] = {"rules": ("residual_dropped",), "places": ("L*.residual",)}
COLLAPSE: dict[str, Any] = {"rules": ("rank_collapse", "residual_dropped"), "places": ("L*", "model")}

ENCODER_SPLIT = "{0} = self.{0}(hidden).view(batch, length, self.n_heads, self.d_head).permute(0, 2, 1, 3)"
ENCODER_MIXED = "{0} = self.{0}(hidden).view(batch, self.n_heads, length, self.d_head)"
ENCODER_MERGE = "context = context.permute(0, 2, 1, 3)"
ENCODER_ADD = "hidden = self.norm_attention(attended + hidden)"
VIT_ADD = "hidden = hidden + self.attention(self.norm_attention(hidden))"
VIT_MLP = "hidden = hidden + self.mlp(self.norm_mlp(hidden))"


class TimeFirst(nn.Module):
    """A classifier around `nn.MultiheadAttention` that forgets `batch_first=True`."""

    def __init__(self, batch_first: bool = False) -> None:
        super().__init__()
        self.tokens = nn.Embedding(32, 32)
        self.positions = nn.Parameter(0.1 * torch.randn(16, 32))
        self.attention = nn.MultiheadAttention(32, 4, batch_first=batch_first)
        self.norm = nn.LayerNorm(32)
        self.classifier = nn.Linear(32, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits."""
        hidden = self.tokens(input_ids) + self.positions
        attended, _ = self.attention(hidden, hidden, hidden, need_weights=False)
        hidden = self.norm(hidden + attended)
        weights = attention_mask.unsqueeze(-1)
        return self.classifier((hidden * weights).sum(1) / weights.sum(1))


def time_first(seed: int) -> tuple[Case, Truth]:
    """The user's line is the call of the attention."""
    import inspect

    from attnscope import catalogue
    from attnscope.anatomy.blocks import Source
    from attnscope.tasks import learn

    task = catalogue.load("tasks", "topic_and_place")(seed=seed)
    torch.manual_seed(seed)
    model = TimeFirst()
    optimizer = learn(model, task, steps=100)
    lines, start = inspect.getsourcelines(TimeFirst)
    source = inspect.getsourcefile(TimeFirst) or ""
    truth = [
        Source(source, start + number, text=text.strip())
        for number, text in enumerate(lines)
        if "MultiheadAttention(" in text or "self.attention(hidden" in text
    ]
    case = Case(
        model,
        [task.batch(500_000 + number, 16) for number in range(2)],
        optimizer=optimizer,
        expects={"padding_token": 0},
        name="multihead_attention",
    )
    return case, Truth(EXAMPLES["rules"], EXAMPLES["places"], tuple(truth))


def swapped_blocks(seed: int) -> tuple[Case, Truth]:
    """Layers of a trained model exchanged, as after a wrong mapping of names."""
    case = healthy("encoder", seed)
    blocks: Any = case.model.get_submodule("blocks")
    first, second = blocks[0], blocks[1]
    blocks[0], blocks[1] = second, first
    return case, Truth(("swapped_layers", "swapped_query_key", "swapped_projections"), ("L0*", "L1*"))


def swapped_value_output(seed: int) -> tuple[Case, Truth]:
    """Value and output of one layer exchanged."""
    case = healthy_library("distilbert", seed)
    attention: Any = case.model.get_submodule("distilbert.transformer.layer.0.attention")
    attention.v_lin, attention.out_lin = attention.out_lin, attention.v_lin
    return case, Truth(("swapped_projections", "swapped_query_key", "swapped_value_output"), ("L0*",))


def tied_layers(seed: int) -> tuple[Case, Truth]:
    """One layer's key is another layer's key in a library model."""
    case = healthy_library("distilbert", seed)
    layers: Any = case.model.get_submodule("distilbert.transformer.layer")
    layers[1].attention.k_lin = layers[0].attention.k_lin
    return case, Truth(("shared_by_mistake",), ("L0*", "L1*"))


def copied_layer(seed: int) -> tuple[Case, Truth]:
    """One layer's attention is a copy (not shared) of another's, as after a loop that loads layer 0 twice."""
    case = healthy_library("gpt2", seed)
    layers: Any = case.model.get_submodule("transformer.h")
    layers[1].attn.load_state_dict(layers[0].attn.state_dict())
    return case, Truth(
        ("duplicated_projections", "shared_by_mistake", "duplicated_heads", "duplicated_layers"), ("L0*", "L1*")
    )


def copied_key(seed: int) -> tuple[Case, Truth]:
    """The key projection holds the query's numbers."""
    case = healthy("encoder", seed)
    attention: Any = case.model.get_submodule("blocks.1.attention")
    attention.key.load_state_dict(attention.query.state_dict())
    return case, Truth(("duplicated_projections", "shared_by_mistake", "duplicated_heads"), ("L1*",))


PLANTED = (
    in_code(
        "attention across examples",
        "axes exchanged",
        "vit",
        Edit(
            VIT_ADD,
            "swapped = self.norm_attention(hidden).transpose(0, 1)\n"
            "hidden = hidden + self.attention(swapped).transpose(0, 1)",
        ),
        **EXAMPLES,
    ),
    in_code(
        "attention across examples",
        "axes exchanged",
        "conv3d_attention",
        Edit(
            "heads = features.flatten(2).view(features.shape[0], self.n_heads, self.d_head, -1)",
            "heads = features.flatten(2).view(features.shape[0], self.n_heads, self.d_head, -1).permute(3, 1, 2, 0)",
        ),
        Edit("context = context.transpose(2, 3)", "context = context.permute(2, 1, 3, 0)"),
        **EXAMPLES,
    ),
    Planted("attention across examples", "batch_first forgotten", "multihead_attention", time_first),
    in_library(
        "attention across examples",
        "axes exchanged",
        "distilbert",
        Edit(
            "attn_weights = torch.matmul(query, key.transpose(2, 3)) * scaling",
            "query, key, value = (each.transpose(0, 2) for each in (query, key, value))\n"
            "attention_mask = None\n"
            "attn_weights = torch.matmul(query, key.transpose(2, 3)) * scaling",
        ),
        Edit(
            "attn_output = attn_output.transpose(1, 2).contiguous()",
            "attn_output = attn_output.transpose(0, 2).transpose(1, 2).contiguous()",
        ),
        **EXAMPLES,
    ),
    in_code(
        "heads split without the transpose",
        "view",
        "gpt",
        Edit(
            "heads = hidden.view(batch, length, self.n_heads, self.d_head)",
            "heads = hidden.view(batch, self.n_heads, length, self.d_head)",
        ),
        Edit("return heads.transpose(1, 2)", "return heads", inside="def split(self, hidden: Tensor) -> Tensor:"),
        **HEADS,
    ),
    in_code(
        "heads split without the transpose",
        "view",
        "encoder",
        *(Edit(ENCODER_SPLIT.format(role), ENCODER_MIXED.format(role)) for role in ("query", "key", "value")),
        **HEADS,
    ),
    in_code("heads merged without the transpose", "reshape", "encoder", Edit(ENCODER_MERGE, ""), **HEADS),
    in_code(
        "heads merged without the transpose", "reshape", "vit", Edit("context = context.transpose(1, 2)", ""), **HEADS
    ),
    in_library(
        "heads merged without the transpose",
        "reshape",
        "llama",
        Edit("attn_output = attn_output.transpose(1, 2).contiguous()", "attn_output = attn_output.contiguous()"),
        **HEADS,
    ),
    in_code(
        "shared by mistake",
        "key = query",
        "encoder",
        Edit("self.key = nn.Linear(d_model, d_model)", "self.key = self.query"),
        **SHARED,
    ),
    in_code(
        "shared by mistake",
        "key = query",
        "gpt",
        Edit("self.key = nn.Linear(d_model, d_model)", "self.key = self.query"),
        **SHARED,
    ),
    in_code(
        "shared by mistake",
        "one block times n",
        "encoder",
        Edit(
            "self.blocks = nn.ModuleList(Block(d_model, n_heads, dropout) for _ in range(n_layers))",
            "self.blocks = nn.ModuleList([Block(d_model, n_heads, dropout)] * n_layers)",
        ),
        **SHARED,
    ),
    Planted("shared by mistake", "key of another layer", "hf-distilbert", tied_layers),
    by_fault_in_library("shared by mistake", "tied_query_key", "distilbert", layer=0),
    in_code(
        "parameter without use",
        "layer forgotten",
        "encoder",
        Edit("pooled = torch.relu(self.pre_classifier(first))", "pooled = torch.relu(first)"),
        rules=("unused_parameter",),
        places=("*pre_classifier*",),
    ),
    in_code(
        "parameter without use",
        "attention bypassed",
        "han",
        Edit(
            "document = self.sentence_attention(sentence_states, real_sentences)",
            "document = sentence_states.mean(dim=1)",
        ),
        rules=("unused_parameter",),
        places=("*sentence_attention*",),
    ),
    in_library(
        "parameter without use",
        "norm forgotten",
        "gpt2",
        Edit("hidden_states = self.ln_2(hidden_states)", "pass"),
        rules=("unused_parameter",),
        places=("*ln_2*", "*norm*"),
    ),
    in_code(
        "residual dropped",
        "norm(attended)",
        "encoder",
        Edit(ENCODER_ADD, "hidden = self.norm_attention(attended)"),
        **RESIDUAL,
    ),
    in_code(
        "residual dropped",
        "hidden = attended",
        "gpt",
        Edit("hidden = hidden + self.dropout(attended)", "hidden = self.dropout(attended)"),
        **RESIDUAL,
    ),
    in_library(
        "residual dropped",
        "not added",
        "distilbert",
        Edit(
            "attention_output = self.sa_layer_norm(attention_output + hidden_states)",
            "attention_output = self.sa_layer_norm(attention_output)",
        ),
        **RESIDUAL,
    ),
    in_library(
        "residual dropped",
        "not added",
        "llama",
        Edit("hidden_states = residual + hidden_states", "pass", nth=0),
        **RESIDUAL,
    ),
    by_fault("norm gain", "zeroed_norm_gain", "gpt", layer=1),
    by_fault("norm gain", "huge_norm_gain", "gpt", layer=0),
    by_fault("norm gain", "zeroed_norm_gain", "encoder", layer=0),
    by_fault("norm gain", "huge_norm_gain", "encoder", layer=0),
    by_fault_in_library("norm gain", "zeroed_norm_gain", "llama", layer=0),
    by_fault_in_library("norm gain", "huge_norm_gain", "distilbert", layer=1),
    by_fault("zeroed", "zeroed_value", "encoder", layer=1),
    by_fault("zeroed", "zeroed_query", "gpt", layer=0),
    by_fault("zeroed", "zeroed_output", "vit", layer=1),
    by_fault("zeroed", "zeroed_head", "rotary_decoder", layer=0, head=1),
    by_fault_in_library("zeroed", "zeroed_value", "distilbert", layer=0),
    by_fault_in_library("zeroed", "zeroed_value", "gpt2", layer=1),
    by_fault_in_library("zeroed", "zeroed_head", "llama", layer=1, head=0),
    by_fault("swapped", "swapped_query_key", "encoder", layer=0, more_steps=0),
    by_fault("swapped", "swapped_query_key", "gpt", layer=1, more_steps=0),
    by_fault_in_library("swapped", "swapped_query_key", "distilbert", layer=0, more_steps=0),
    Planted("swapped", "layers", "encoder", swapped_blocks),
    Planted("swapped", "value and output", "hf-distilbert", swapped_value_output),
    by_fault("duplicated", "duplicated_heads", "encoder", layer=0),
    by_fault("duplicated", "duplicated_heads", "vit", layer=1),
    by_fault_in_library("duplicated", "duplicated_heads", "distilbert", layer=1),
    by_fault_in_library("duplicated", "duplicated_heads", "gpt2", layer=0),
    Planted("duplicated", "layer", "hf-gpt2", copied_layer),
    Planted("duplicated", "key is the query", "encoder", copied_key),
    in_code(
        "rank collapse",
        "six layers without residual",
        "vit",
        Edit(VIT_ADD, "hidden = self.attention(self.norm_attention(hidden))"),
        Edit(VIT_MLP, "hidden = self.mlp(self.norm_mlp(hidden))"),
        sizes={"n_layers": 6},
        steps=40,
        **COLLAPSE,
    ),
    in_code(
        "rank collapse",
        "six layers without residual",
        "encoder",
        Edit(ENCODER_ADD, "hidden = attended"),
        Edit("hidden = self.norm_mlp(mapped + hidden)", "hidden = mapped"),
        sizes={"n_layers": 6},
        steps=40,
        **COLLAPSE,
    ),
    in_library(
        "rank collapse",
        "six layers without residual",
        "distilbert",
        Edit(
            "attention_output = self.sa_layer_norm(attention_output + hidden_states)",
            "attention_output = self.sa_layer_norm(attention_output)",
        ),
        Edit(
            "ffn_output = self.output_layer_norm(ffn_output + attention_output)",
            "ffn_output = self.output_layer_norm(ffn_output)",
        ),
        config={"n_layers": 6},
        steps=40,
        **COLLAPSE,
    ),
)
