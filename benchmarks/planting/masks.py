"""Planted mistakes: masks."""

from __future__ import annotations

from planting.editing import Edit
from planting.huggingface import by_fault_in_library, in_library
from planting.small import by_fault, in_code

MASK = ("L*.mask", "L*.scores", "L*.softmax")
FUTURE = {"rules": ("future_leak",), "places": MASK}
PADDING = {"rules": ("padding_attended",), "places": MASK}
INVERTED = {"rules": ("padding_mask_inverted", "padding_attended"), "places": MASK}
AFTER = {"rules": ("mask_after_softmax",), "places": MASK}

GPT_MASK = 'scores = scores.masked_fill(~allowed, float("-inf"))'
GPT_TRIL = "allowed = torch.tril(ones, diagonal=n_keys - n_queries)"
ROTARY_MASK = "future = torch.full((length, length), -1e9, device=hidden.device).triu(diagonal=1)"
ENCODER_MASK = "scores = scores.masked_fill(padding, torch.finfo(scores.dtype).min)"
ENCODER_SOFTMAX = "pattern = nn.functional.softmax(scores, dim=-1)"
LIBRARY_MASK = "attn_weights = attn_weights + attention_mask"
LIBRARY_SOFTMAX = "attn_weights = nn.functional.softmax(attn_weights, dim=-1)"
LIBRARY_EAGER = "def eager_attention_forward("

PLANTED = (
    in_code("future leak", "mask missing", "gpt", Edit(GPT_MASK, ""), **FUTURE),
    in_code("future leak", "mask missing", "rotary_decoder", Edit("scores = scores + future", ""), **FUTURE),
    in_library("future leak", "mask missing", "gpt2", Edit(LIBRARY_MASK, "pass", nth=0), **FUTURE),
    in_library("future leak", "mask missing", "llama", Edit(LIBRARY_MASK, "pass"), **FUTURE),
    by_fault("future leak", "future_leak", "gpt", layer=1),
    in_code(
        "future leak",
        "off by one",
        "gpt",
        Edit(GPT_TRIL, "allowed = torch.tril(ones, diagonal=n_keys - n_queries + 1)"),
        **FUTURE,
    ),
    in_code(
        "future leak",
        "off by one",
        "rotary_decoder",
        Edit(ROTARY_MASK, ROTARY_MASK.replace("diagonal=1", "diagonal=2")),
        **FUTURE,
    ),
    in_code(
        "future leak",
        "fill 1e-9 for -1e9",
        "gpt",
        Edit(GPT_MASK, "scores = scores.masked_fill(~allowed, 1e-9)"),
        **FUTURE,
    ),
    in_code(
        "future leak", "fill -5", "rotary_decoder", Edit(ROTARY_MASK, ROTARY_MASK.replace("-1e9", "-5.0")), **FUTURE
    ),
    in_code("future leak", "mask multiplied", "gpt", Edit(GPT_MASK, "scores = scores * allowed"), **FUTURE),
    in_code("padding attended", "mask missing", "encoder", Edit(ENCODER_MASK, ""), **PADDING),
    in_code("padding attended", "mask missing", "han", Edit("scores = scores.masked_fill(~real, -1e9)", ""), **PADDING),
    in_library("padding attended", "mask missing", "distilbert", Edit(LIBRARY_MASK, "pass"), **PADDING),
    in_code(
        "padding attended",
        "fill -1",
        "encoder",
        Edit(ENCODER_MASK, "scores = scores.masked_fill(padding, -1.0)"),
        **PADDING,
    ),
    by_fault_in_library("padding attended", "padding_attended", "distilbert", layer=1),
    by_fault_in_library("padding attended", "padding_attended", "distilbert", layer=0, implementation="sdpa"),
    in_code(
        "padding mask inverted",
        "== 1 for == 0",
        "encoder",
        Edit("padding = attention_mask[:, None, None, :] == 0", "padding = attention_mask[:, None, None, :] == 1"),
        **INVERTED,
    ),
    in_code(
        "padding mask inverted",
        "negation lost",
        "han",
        Edit("scores = scores.masked_fill(~real, -1e9)", "scores = scores.masked_fill(real, -1e9)"),
        **INVERTED,
    ),
    in_library(
        "padding mask inverted",
        "batch mask negated",
        "distilbert",
        rules=("padding_mask_inverted", "padding_attended"),
        places=(*MASK, "data", "model"),
        change=lambda batch: {**batch, "attention_mask": 1 - batch["attention_mask"]},
    ),
    in_code(
        "mask after softmax",
        "multiplied",
        "gpt",
        Edit(GPT_MASK, ""),
        Edit(
            "pattern = torch.softmax(scores, dim=-1)",
            "pattern = torch.softmax(scores, dim=-1)\npattern = pattern * allowed",
        ),
        **AFTER,
    ),
    in_code(
        "mask after softmax",
        "filled with 0",
        "encoder",
        Edit(ENCODER_MASK, ""),
        Edit(ENCODER_SOFTMAX, ENCODER_SOFTMAX + "\npattern = pattern.masked_fill(padding, 0.0)"),
        **AFTER,
    ),
    in_library(
        "mask after softmax",
        "multiplied",
        "distilbert",
        Edit(LIBRARY_MASK, "pass"),
        Edit(LIBRARY_SOFTMAX, LIBRARY_SOFTMAX + "\nattn_weights = attn_weights * (attention_mask >= 0)"),
        **AFTER,
    ),
    by_fault_in_library("mask after softmax", "mask_after_softmax", "gpt2", layer=0),
)
