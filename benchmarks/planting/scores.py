"""Planted mistakes: scores, softmax and scale."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from attnscope.case import Case
from planting.editing import Edit
from planting.huggingface import by_fault_in_library, in_library
from planting.huggingface import healthy as healthy_library
from planting.masks import ENCODER_SOFTMAX, LIBRARY_SOFTMAX
from planting.planted import Planted, Truth
from planting.small import by_fault, healthy, in_code

SOFTMAX = ("L*.softmax", "L*.scores")
SCALE = ("L*.scale", "L*.scores", "L*.softmax")
AXIS: dict[str, Any] = {"rules": ("softmax_wrong_axis",), "places": SOFTMAX}
ROWS: dict[str, Any] = {"rules": ("rows_not_normalised",), "places": SOFTMAX}
TWICE: dict[str, Any] = {"rules": ("softmax_twice",), "places": SOFTMAX}
LOSS: dict[str, Any] = {
    "rules": ("softmax_before_loss", "softmax_twice"),
    "places": ("model", "data", "loss", "*classifier*"),
}
WRONG: dict[str, Any] = {"rules": ("wrong_scale",), "places": SCALE}
SATURATED: dict[str, Any] = {"rules": ("saturated_scores",), "places": (*SOFTMAX, "L*.scale", "L*.Q", "L*.K", "L*H*")}
UNIFORM: dict[str, Any] = {
    "rules": ("uniform_attention",),
    "places": (*SOFTMAX, "L*.scale", "L*.Q", "L*.K", "L*H*", "L*"),
}
DROPOUT: dict[str, Any] = {"places": ("L*.dropout", "L*.softmax", "L*.scores", "model")}

GPT_SCALE = "scores = scores / math.sqrt(self.d_head)"
GPT_SOFTMAX = "pattern = torch.softmax(scores, dim=-1)"
ROTARY_SCALE = "scores = scores * (1 / math.sqrt(self.d_head))"
LIBRARY_PRODUCT = "attn_weights = torch.matmul(query, key.transpose(2, 3)) * scaling"
LLAMA_PRODUCT = "attn_weights = torch.matmul(query, key_states.transpose(2, 3)) * scaling"


def overflowing(model: nn.Module, gain: float) -> None:
    """Scales query and key weights of the first attention up."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".0." in name and ("query" in name or "key" in name or "q_proj" in name or "k_proj" in name):
                parameter.mul_(gain)


def half_gpt(seed: int) -> tuple[Case, Truth]:
    """A GPT in half precision whose first scores pass 65504 before the scale."""
    case = healthy("gpt", seed)
    overflowing(case.model, 80.0)
    case.model.half()
    case.optimizer = None
    return case, Truth(("half_precision_overflow", "not_finite"), ("L0*",))


def half_llama(seed: int) -> tuple[Case, Truth]:
    """A Llama in half precision whose first scores pass 65504."""
    case = healthy_library("llama", seed)
    overflowing(case.model, 80.0)
    case.model.half()
    case.optimizer = None
    return case, Truth(("half_precision_overflow", "not_finite"), ("L0*",))


def soft_loss(output: Any, batch: Any) -> torch.Tensor:
    """Cross-entropy of probabilities: a softmax too many."""
    logits = getattr(output, "logits", output)
    labels = batch["labels"] if isinstance(batch, dict) else batch[1]
    return nn.functional.cross_entropy(logits.softmax(-1), labels)


def soft_loss_library(seed: int) -> tuple[Case, Truth]:
    """A softmax in the user's loss."""
    case = healthy_library("distilbert", seed)
    case.loss = soft_loss
    return case, Truth(LOSS["rules"], LOSS["places"])


PLANTED = (
    in_code(
        "softmax over the wrong axis",
        "dim=-2",
        "encoder",
        Edit(ENCODER_SOFTMAX, ENCODER_SOFTMAX.replace("-1", "-2")),
        **AXIS,
    ),
    in_code(
        "softmax over the wrong axis",
        "over heads",
        "vit",
        Edit("pattern = scores.softmax(dim=-1)", "pattern = scores.softmax(dim=1)"),
        **AXIS,
    ),
    in_code(
        "softmax over the wrong axis",
        "over examples",
        "han",
        Edit("pattern = torch.softmax(scores, dim=1)", "pattern = torch.softmax(scores, dim=0)"),
        **AXIS,
    ),
    in_code(
        "softmax over the wrong axis",
        "over queries",
        "conv3d_attention",
        Edit(GPT_SOFTMAX, "pattern = torch.softmax(scores, dim=2)"),
        **AXIS,
    ),
    in_library(
        "softmax over the wrong axis",
        "dim=-2",
        "distilbert",
        Edit(LIBRARY_SOFTMAX, LIBRARY_SOFTMAX.replace("-1", "-2")),
        **AXIS,
    ),
    in_code("rows not normalised", "sigmoid", "gpt", Edit(GPT_SOFTMAX, "pattern = torch.sigmoid(scores)"), **ROWS),
    in_code(
        "rows not normalised",
        "exp without the sum",
        "vit",
        Edit("pattern = scores.softmax(dim=-1)", "pattern = (scores - scores.amax(-1, keepdim=True)).exp()"),
        **ROWS,
    ),
    in_code(
        "rows not normalised",
        "divided again",
        "encoder",
        Edit(ENCODER_SOFTMAX, ENCODER_SOFTMAX + " / math.sqrt(self.d_head)"),
        **ROWS,
    ),
    by_fault_in_library("rows not normalised", "rows_not_normalised", "gpt2", layer=1),
    in_code(
        "softmax twice",
        "in the attention",
        "encoder",
        Edit(ENCODER_SOFTMAX, ENCODER_SOFTMAX + "\npattern = nn.functional.softmax(pattern, dim=-1)"),
        **TWICE,
    ),
    in_code(
        "softmax twice",
        "in the attention",
        "vit",
        Edit("pattern = scores.softmax(dim=-1)", "pattern = scores.softmax(dim=-1).softmax(dim=-1)"),
        **TWICE,
    ),
    in_library(
        "softmax twice",
        "in the attention",
        "distilbert",
        Edit(LIBRARY_SOFTMAX, LIBRARY_SOFTMAX + "\n" + LIBRARY_SOFTMAX),
        **TWICE,
    ),
    in_code(
        "softmax twice",
        "before cross-entropy",
        "encoder",
        Edit("logits: Tensor = self.classifier(pooled)", "logits: Tensor = self.classifier(pooled).softmax(-1)"),
        **LOSS,
    ),
    in_code(
        "softmax twice",
        "before cross-entropy",
        "vit",
        Edit(
            "logits: Tensor = self.classifier(hidden[:, 0])",
            "logits: Tensor = torch.softmax(self.classifier(hidden[:, 0]), dim=-1)",
        ),
        **LOSS,
    ),
    Planted("softmax twice", "in the loss", "hf-distilbert", soft_loss_library),
    in_code("scale", "missing", "gpt", Edit(GPT_SCALE, ""), **WRONG),
    in_code("scale", "missing", "encoder", Edit(GPT_SCALE, ""), **WRONG),
    in_code("scale", "missing", "conv3d_attention", Edit(GPT_SCALE, ""), **WRONG),
    in_library("scale", "missing", "llama", Edit(LLAMA_PRODUCT, LLAMA_PRODUCT.removesuffix(" * scaling")), **WRONG),
    by_fault_in_library("scale", "missing_scale", "distilbert", layer=1),
    by_fault_in_library("scale", "missing_scale", "gpt2", layer=0, implementation="sdpa"),
    in_code(
        "scale",
        "doubled",
        "vit",
        Edit("scores = query @ key.transpose(-2, -1)", "scores = (query @ key.transpose(-2, -1)) * self.scale"),
        **WRONG,
    ),
    in_library("scale", "doubled", "distilbert", Edit(LIBRARY_PRODUCT, LIBRARY_PRODUCT + " * scaling"), **WRONG),
    in_code(
        "scale", "by d_model", "encoder", Edit(GPT_SCALE, "scores = scores / math.sqrt(hidden.shape[-1])"), **WRONG
    ),
    in_code(
        "scale",
        "by d_model",
        "rotary_decoder",
        Edit(ROTARY_SCALE, "scores = scores * (1 / math.sqrt(hidden.shape[-1]))"),
        **WRONG,
    ),
    in_code("scale", "by the length", "gpt", Edit(GPT_SCALE, "scores = scores / math.sqrt(n_keys)"), **WRONG),
    in_code(
        "scale",
        "multiplied for divided",
        "conv3d_attention",
        Edit(GPT_SCALE, "scores = scores * math.sqrt(self.d_head)"),
        **WRONG,
    ),
    by_fault("saturated scores", "saturated_scores", "encoder", layer=1),
    by_fault("saturated scores", "saturated_scores", "gpt", layer=0),
    by_fault_in_library("saturated scores", "saturated_scores", "distilbert", layer=0),
    in_code("uniform attention", "scores times 1e-4", "encoder", Edit(GPT_SCALE, GPT_SCALE + " * 1e-4"), **UNIFORM),
    in_code(
        "uniform attention",
        "scores times 0",
        "vit",
        Edit("query = query * self.scale", "query = query * self.scale * 1e-6"),
        **UNIFORM,
    ),
    by_fault_in_library("uniform attention", "uniform_attention", "distilbert", layer=1),
    Planted("overflow in half precision", "scores past 65504", "gpt", half_gpt),
    Planted("overflow in half precision", "scores past 65504", "hf-llama", half_llama),
    in_code(
        "dropout in eval",
        "F.dropout",
        "encoder",
        Edit("pattern = self.dropout(pattern)", "pattern = nn.functional.dropout(pattern, 0.1)"),
        rules=("dropout_in_eval", "not_deterministic"),
        **DROPOUT,
    ),
    in_code(
        "dropout in eval",
        "F.dropout",
        "gpt",
        Edit("pattern = self.dropout(pattern)", "pattern = nn.functional.dropout(pattern, p=0.1, training=True)"),
        rules=("dropout_in_eval", "not_deterministic"),
        **DROPOUT,
    ),
    by_fault_in_library("dropout in eval", "dropout_in_eval", "distilbert", layer=1),
    in_code(
        "dropout before the softmax",
        "order exchanged",
        "encoder",
        Edit(ENCODER_SOFTMAX, "pattern = nn.functional.softmax(self.dropout(scores), dim=-1)"),
        Edit("pattern = self.dropout(pattern)", "pass"),
        rules=("dropout_before_softmax",),
        sizes={"dropout": 0.1},
        **DROPOUT,
    ),
    in_code(
        "dropout before the softmax",
        "order exchanged",
        "gpt",
        Edit(GPT_SCALE, "scores = self.dropout(scores / math.sqrt(self.d_head))"),
        Edit("pattern = self.dropout(pattern)", "pass"),
        rules=("dropout_before_softmax",),
        sizes={"dropout": 0.1},
        **DROPOUT,
    ),
    by_fault_in_library("dropout before the softmax", "dropout_before_softmax", "distilbert", layer=0),
    in_code(
        "not deterministic",
        "noise on the hidden state",
        "encoder",
        Edit("hidden = self.norm(hidden)", "hidden = self.norm(hidden) + 0.01 * torch.randn_like(hidden)"),
        rules=("not_deterministic",),
        places=("model", "L*", "norm*"),
    ),
    in_code(
        "not deterministic",
        "context drawn anew",
        "han",
        Edit("scores = inner @ self.context", "scores = inner @ torch.randn_like(self.context)"),
        rules=("not_deterministic", "unused_parameter"),
        places=("model", "L*", "*context*"),
    ),
    in_library(
        "not deterministic",
        "noise on the values",
        "distilbert",
        Edit(
            "attn_output = torch.matmul(attn_weights, value)",
            "attn_output = torch.matmul(attn_weights, value + 0.01 * torch.randn_like(value))",
        ),
        rules=("not_deterministic",),
        places=("model", "L*"),
    ),
)
