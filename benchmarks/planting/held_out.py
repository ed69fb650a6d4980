"""Planted mistakes that no rule was developed on: other models, other ways of writing them.

They tell how the diagnosis fares on what it has not seen. `benchmarks/planted_held_out.json` keeps what it said of
them the first time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from attnscope.case import Case
from planting.editing import Edit
from planting.masks import LIBRARY_MASK, LIBRARY_SOFTMAX
from planting.other_cases import healthy, in_family, injected, styled
from planting.planted import Planted, Truth

SITE = ("L*.mask", "L*.scores", "L*.softmax")
SCALE = ("L*.scale", "L*.scores", "L*.softmax")


def without_biases(model: nn.Module) -> torch.optim.Optimizer:
    """Two parameter groups of which the second was never added: no bias and no norm is trained."""
    decayed = [
        parameter for name, parameter in model.named_parameters() if "bias" not in name and "LayerNorm" not in name
    ]
    return torch.optim.AdamW([{"params": decayed, "weight_decay": 0.01}], lr=3e-3)


def half_bert(seed: int) -> tuple[Case, Truth]:
    """A BERT in half precision whose scores pass 65504."""
    case = healthy("bert", seed)
    with torch.no_grad():
        for name, parameter in case.model.named_parameters():
            if "layer.1.attention.self.query" in name or "layer.1.attention.self.key" in name:
                parameter.mul_(200.0)
    case.model.half()
    case.optimizer = None
    return case, Truth(("half_precision_overflow", "not_finite"), ("L1*",))


def too_fast(seed: int) -> tuple[Case, Truth]:
    """A trained Llama that goes on with plain gradient descent at 50."""
    case = healthy("llama", seed)
    case.optimizer = torch.optim.SGD(case.model.parameters(), lr=50.0)
    return case, Truth(("beyond_stability_limit",), ("*",))


def probabilities(seed: int) -> tuple[Case, Truth]:
    """A trained ViT whose loss is the negative logarithm of a softmax of a softmax."""
    case = healthy("vit", seed)
    case.loss = lambda output, batch: nn.functional.nll_loss(
        torch.log_softmax(torch.softmax(output.logits, -1), -1), batch["labels"]
    )
    return case, Truth(("softmax_before_loss",), ("model", "data", "loss", "classifier*"))


def exchanged(batch: dict[str, Any]) -> dict[str, Any]:
    """Labels of other examples."""
    return {**batch, "labels": batch["labels"].roll(1, 0)}


NANO_MASK = 'att = att.masked_fill(self.bias[:, :, :T, :T] == 0, float("-inf"))'
BERT_ADD = "hidden_states = self.LayerNorm(hidden_states + input_tensor)"
BERT_SELF = "class BertSelfAttention(nn.Module):"
FUTURE: dict[str, Any] = {"rules": ("future_leak",), "places": SITE}
PADDING: dict[str, Any] = {"rules": ("padding_attended",), "places": SITE}
WRONG_SCALE: dict[str, Any] = {"rules": ("wrong_scale",), "places": SCALE}
RESIDUAL: dict[str, Any] = {"rules": ("residual_dropped", "rank_collapse"), "places": ("L*.residual", "L*")}
HEADS: dict[str, Any] = {"rules": ("heads_mixed",), "places": ("L*.heads", "L*")}
POSITIONS: dict[str, Any] = {
    "rules": ("positions_missing", "positions_constant", "unused_parameter"),
    "places": ("*position*", "L*.positions", "model", "*pe*"),
}
MEMBERS: dict[str, Any] = {"rules": ("shared_by_mistake",), "places": ("L*",)}

PLANTED: tuple[Planted, ...] = (
    styled(
        "future leak",
        "triu for tril",
        "fused decoder",
        Edit(
            'self.register_buffer("bias", torch.tril(torch.ones(block_size, block_size))[None, None])',
            'self.register_buffer("bias", torch.triu(torch.ones(block_size, block_size))[None, None])',
        ),
        **FUTURE,
    ),
    styled(
        "future leak", "fill -1", "fused decoder", Edit(NANO_MASK, NANO_MASK.replace('float("-inf")', "-1.0")), **FUTURE
    ),
    in_family(
        "future leak",
        "where the wrong way round",
        "gpt-neo",
        Edit(
            "attn_weights = torch.where(causal_mask, attn_weights, mask_value)",
            "attn_weights = torch.where(causal_mask, mask_value, attn_weights)",
        ),
        **FUTURE,
    ),
    in_family(
        "future leak",
        "mask never added",
        "bart",
        Edit(LIBRARY_MASK, "pass"),
        rules=("future_leak", "padding_attended"),
        places=SITE,
    ),
    styled(
        "padding attended",
        "mask not passed",
        "nn.TransformerEncoder",
        Edit(
            "hidden = self.encoder(hidden, src_key_padding_mask=attention_mask == 0)", "hidden = self.encoder(hidden)"
        ),
        **PADDING,
    ),
    styled(
        "padding attended",
        "fill -1e-9",
        "functional encoder",
        Edit("scores = scores.masked_fill(mask == 0, -1e9)", "scores = scores.masked_fill(mask == 0, -1e-9)"),
        **PADDING,
    ),
    in_family("padding attended", "mask never added", "bert", Edit(LIBRARY_MASK, "pass"), **PADDING),
    styled(
        "padding mask inverted",
        "== 1",
        "nn.MultiheadAttention",
        Edit(
            "attended, _ = self.attention(hidden, hidden, hidden, key_padding_mask=attention_mask == 0)",
            "attended, _ = self.attention(hidden, hidden, hidden, key_padding_mask=attention_mask == 1)",
        ),
        steps=0,
        rules=("padding_mask_inverted", "padding_attended", "not_finite"),
        places=SITE,
    ),
    styled(
        "padding mask inverted",
        "mask != 0",
        "functional encoder",
        Edit("scores = scores.masked_fill(mask == 0, -1e9)", "scores = scores.masked_fill(mask != 0, -1e9)"),
        rules=("padding_mask_inverted", "padding_attended"),
        places=SITE,
    ),
    styled(
        "mask after softmax",
        "pattern times mask",
        "functional encoder",
        Edit("scores = scores.masked_fill(mask == 0, -1e9)", ""),
        Edit("p_attn = scores.softmax(dim=-1)", "p_attn = scores.softmax(dim=-1) * mask"),
        rules=("mask_after_softmax",),
        places=SITE,
    ),
    styled(
        "softmax over the wrong axis",
        "over one place",
        "gated pooling",
        Edit("pattern = torch.softmax(scores, dim=1)", "pattern = torch.softmax(scores, dim=-1)"),
        rules=("softmax_wrong_axis", "rows_not_normalised"),
        places=SITE,
    ),
    in_family(
        "softmax over the wrong axis",
        "over heads",
        "bert",
        Edit(LIBRARY_SOFTMAX, LIBRARY_SOFTMAX.replace("-1", "1")),
        rules=("softmax_wrong_axis",),
        places=SITE,
    ),
    styled(
        "rows not normalised",
        "relu for softmax",
        "fused decoder",
        Edit("att = F.softmax(att, dim=-1)", "att = F.relu(att)"),
        rules=("rows_not_normalised",),
        places=SITE,
    ),
    in_family(
        "softmax twice",
        "in the attention",
        "llama",
        Edit(
            "attn_weights = nn.functional.softmax(attn_weights, dim=-1, dtype=torch.float32).to(query.dtype)",
            "attn_weights = attn_weights.softmax(-1).softmax(-1)",
        ),
        rules=("softmax_twice",),
        places=SITE,
    ),
    Planted("softmax twice", "in the loss", "hf-vit", probabilities),
    in_family(
        "scale",
        "by the whole width",
        "bert",
        Edit(
            "self.scaling = self.attention_head_size**-0.5", "self.scaling = config.hidden_size**-0.5", inside=BERT_SELF
        ),
        **WRONG_SCALE,
    ),
    in_family(
        "scale",
        "root for one over the root",
        "bart",
        Edit("self.scaling = self.head_dim**-0.5", "self.scaling = self.head_dim**0.5"),
        **WRONG_SCALE,
    ),
    styled("scale", "missing", "fused decoder", Edit("att = att * (1.0 / math.sqrt(k.size(-1)))", ""), **WRONG_SCALE),
    styled(
        "scale",
        "by the batch",
        "functional encoder",
        Edit("d_k = query.size(-1)", "d_k = query.size(0)"),
        **WRONG_SCALE,
    ),
    styled(
        "attention across examples",
        "batch_first forgotten",
        "learned queries",
        Edit("self.read = nn.MultiheadAttention(32, 4, batch_first=True)", "self.read = nn.MultiheadAttention(32, 4)"),
        Edit(
            "latents = self.norm_read(latents + self.read(latents, hidden, hidden)[0])",
            "hidden = hidden[:, :4]\nlatents = self.norm_read(latents + self.read(latents, hidden, hidden)[0])",
        ),
        rules=("examples_mixed",),
        places=("L*",),
    ),
    styled(
        "attention across examples",
        "batch_first forgotten",
        "nn.TransformerEncoder",
        Edit(
            "layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)",
            "layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1)",
        ),
        Edit(
            "hidden = self.encoder(hidden, src_key_padding_mask=attention_mask == 0)", "hidden = self.encoder(hidden)"
        ),
        rules=("examples_mixed",),
        places=("L*",),
    ),
    styled(
        "heads merged without the transpose",
        "view",
        "fused decoder",
        Edit("y = y.transpose(1, 2).contiguous().view(B, T, C)", "y = y.contiguous().view(B, T, C)"),
        **HEADS,
    ),
    in_family(
        "heads split without the transpose",
        "view",
        "bert",
        *(
            Edit(
                f"{role}_layer = self.{role}(hidden_states).view(*hidden_shape).transpose(1, 2)",
                f"{role}_layer = self.{role}(hidden_states)\n"
                f"{role}_layer = {role}_layer.view(input_shape[0], -1, input_shape[1], self.attention_head_size)",
                inside=BERT_SELF,
            )
            for role in ("query", "key", "value")
        ),
        **HEADS,
    ),
    styled(
        "shared by mistake",
        "clones without a copy",
        "functional encoder",
        Edit(
            "return nn.ModuleList([copy.deepcopy(module) for _ in range(count)])",
            "return nn.ModuleList([module for _ in range(count)])",
        ),
        **MEMBERS,
    ),
    in_family(
        "shared by mistake",
        "value is the key",
        "bert",
        Edit(
            "self.value = nn.Linear(config.hidden_size, self.all_head_size)", "self.value = self.key", inside=BERT_SELF
        ),
        **MEMBERS,
    ),
    styled(
        "parameter without use",
        "last norm forgotten",
        "fused decoder",
        Edit("x = self.ln_f(x)", ""),
        rules=("unused_parameter",),
        places=("*ln_f*",),
    ),
    styled(
        "parameter without use",
        "gate forgotten",
        "gated pooling",
        Edit(
            "scores = self.score(torch.tanh(self.tanh(hidden)) * torch.sigmoid(self.gate(hidden)))",
            "scores = self.score(torch.tanh(self.tanh(hidden)))",
        ),
        rules=("unused_parameter",),
        places=("*gate*",),
    ),
    styled(
        "cut gradient",
        "key without graph",
        "fused decoder",
        Edit("att = q @ k.transpose(-2, -1)", "att = q @ k.data.transpose(-2, -1)"),
        rules=("cut_gradient",),
        places=("L*",),
    ),
    in_family(
        "cut gradient",
        "value detached",
        "gpt-neo",
        Edit(
            "attn_output = torch.matmul(attn_weights, value)",
            "attn_output = torch.matmul(attn_weights, value.detach())",
        ),
        rules=("cut_gradient",),
        places=("L*",),
    ),
    in_family(
        "left out of the optimiser",
        "biases and norms",
        "bert",
        optimizer=without_biases,
        rules=("left_out_of_optimizer",),
        places=("L*", "*"),
    ),
    styled(
        "not registered",
        "list for ModuleList",
        "fused decoder",
        Edit(
            "self.h = nn.ModuleList([DecoderLayer(n_embd, n_head, block_size) for _ in range(2)])",
            "self.h = [DecoderLayer(n_embd, n_head, block_size) for _ in range(2)]",
        ),
        rules=("unregistered_parameter",),
        places=("L*", "h*", "model"),
    ),
    styled(
        "dropout in eval",
        "F.dropout",
        "functional encoder",
        Edit("p_attn = scores.softmax(dim=-1)", "p_attn = nn.functional.dropout(scores.softmax(dim=-1), 0.1)"),
        rules=("dropout_in_eval", "not_deterministic"),
        places=("L*", "model"),
    ),
    in_family(
        "dropout before the softmax",
        "order exchanged",
        "bert",
        Edit(
            LIBRARY_SOFTMAX,
            "attn_weights = nn.functional.dropout(attn_weights, p=dropout, training=module.training)\n"
            + LIBRARY_SOFTMAX,
        ),
        Edit("attn_weights = nn.functional.dropout(attn_weights, p=dropout, training=module.training)", "pass", nth=1),
        rules=("dropout_before_softmax",),
        places=("L*",),
    ),
    styled(
        "not deterministic",
        "random offset",
        "fused decoder",
        Edit(
            "pos = torch.arange(idx.size(1), device=idx.device)",
            "pos = torch.arange(idx.size(1), device=idx.device) + torch.randint(0, 8, (1,))",
        ),
        rules=("not_deterministic",),
        places=("*",),
    ),
    in_family(
        "positions missing",
        "never added",
        "bert",
        Edit("embeddings = embeddings + position_embeddings", "pass"),
        **POSITIONS,
    ),
    styled(
        "positions missing", "never added", "functional encoder", Edit("x = x + self.pe[: x.size(1)]", ""), **POSITIONS
    ),
    styled(
        "positions constant",
        "one position",
        "fused decoder",
        Edit(
            "pos = torch.arange(idx.size(1), device=idx.device)",
            "pos = torch.full((idx.size(1),), 3, device=idx.device)",
        ),
        **POSITIONS,
    ),
    injected("positions shifted", "positions_shifted", "bert", more_steps=0),
    in_family(
        "rotary positions",
        "sine and cosine exchanged on one side",
        "llama",
        Edit("k_embed = (k * cos) + (rotate_half(k) * sin)", "k_embed = (k * sin) + (rotate_half(k) * cos)"),
        rules=("rotary_misapplied",),
        places=("L*", "positions"),
    ),
    in_family(
        "residual dropped",
        "not added",
        "bert",
        Edit(BERT_ADD, "hidden_states = self.LayerNorm(hidden_states)", nth=0),
        **RESIDUAL,
    ),
    styled(
        "residual dropped",
        "not added",
        "fused decoder",
        Edit("x = x + self.attn(self.ln_1(x))", "x = self.attn(self.ln_1(x))"),
        **RESIDUAL,
    ),
    injected("norm gain", "zeroed_norm_gain", "t5", layer=0),
    injected("norm gain", "huge_norm_gain", "vit", layer=1),
    injected("zeroed", "zeroed_value", "bert", layer=1),
    injected("zeroed", "zeroed_query", "t5", layer=1),
    injected("zeroed", "zeroed_output", "bart", layer=3),
    injected("zeroed", "zeroed_head", "vit", layer=0, head=2),
    injected("swapped", "swapped_query_key", "bert", layer=1, more_steps=0),
    injected("swapped", "swapped_layers", "llama", layer=0, more_steps=0),
    injected("duplicated", "duplicated_heads", "bert", layer=0),
    injected("duplicated", "duplicated_heads", "llama", layer=1),
    injected("saturated scores", "saturated_scores", "bert", layer=0),
    injected("saturated scores", "saturated_scores", "llama", layer=1),
    injected("uniform attention", "uniform_attention", "gpt2", layer=1),
    injected("altered gradient", "altered_gradient", "bert", layer=1),
    injected("altered gradient", "altered_gradient", "gpt2", layer=0),
    Planted("overflow in half precision", "scores past 65504", "hf-bert", half_bert),
    injected("NaN or Inf", "not_finite", "bert", layer=1, more_steps=0),
    Planted("beyond the stability limit", "gradient descent at 50", "hf-llama", too_fast, effort="deep"),
    injected("learning rate out of line", "learning_rate_out_of_line", "gpt-neo", layer=1, more_steps=3),
    in_family(
        "cache position",
        "one too far",
        "llama",
        Edit(
            "past_seen_tokens = past_key_values.get_seq_length() if past_key_values is not None else 0",
            "past_seen_tokens = past_key_values.get_seq_length() if past_key_values is not None else 0\n"
            "past_seen_tokens = past_seen_tokens + 1 if past_seen_tokens else 0",
            nth=0,
        ),
        rules=("wrong_cache_position",),
        places=("L*.cache", "L*", "model"),
    ),
    in_family(
        "labels unshifted",
        "shift lost in the loss",
        "llama",
        Edit(
            "loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)",
            "loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())",
            nth=0,
        ),
        rules=("labels_unshifted",),
        places=("data", "model", "loss"),
    ),
    in_family(
        "labels without signal",
        "exchanged",
        "vit",
        change=exchanged,
        rules=("labels_without_signal",),
        places=("data",),
    ),
    in_family(
        "labels without signal",
        "exchanged",
        "bert",
        change=exchanged,
        rules=("labels_without_signal",),
        places=("data",),
    ),
)
