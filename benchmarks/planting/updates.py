"""Planted mistakes: gradients, updates and stability."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from attnscope.case import Case
from planting.editing import Edit
from planting.huggingface import by_fault_in_library, huggingface_case, in_library
from planting.planted import Planted, Truth
from planting.small import by_fault, in_code, small_case

CUT: dict[str, Any] = {"rules": ("cut_gradient",), "places": ("L*.K", "L*.Q", "L*.V", "L*.QK")}
UNREGISTERED: dict[str, Any] = {
    "rules": ("unregistered_parameter", "unregistered", "left_out_of_optimizer"),
    "places": ("L*", "blocks*", "model"),
}
NOT_FINITE: dict[str, Any] = {"rules": ("not_finite",), "places": ("L*",)}
STABILITY = ("beyond_stability_limit", "learning_rate_out_of_line")

GPT_BLOCKS = "self.blocks = nn.ModuleList(Block(d_model, n_heads, dropout) for _ in range(n_layers))"
VIT_BLOCKS = "self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))"


def adam_too_fast(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW at a hundred times a sensible rate."""
    return torch.optim.AdamW(model.parameters(), lr=0.3)


def beyond(make: Callable[..., Any], name: str, optimizer: Callable[[nn.Module], torch.optim.Optimizer]) -> Planted:
    """A trained model whose optimiser now takes steps beyond the limit that its curvature sets."""

    def planted(seed: int) -> tuple[Case, Truth]:
        case, _ = make(name, seed=seed)
        case.optimizer = optimizer(case.model)
        return case, Truth(STABILITY, ("*",))

    model = name if make is small_case else f"hf-{name}"
    return Planted("beyond the stability limit", optimizer.__name__.replace("_", " "), model, planted, effort="deep")


def gradient_descent_too_fast(model: nn.Module) -> torch.optim.Optimizer:
    """Plain gradient descent with a step of 100."""
    return torch.optim.SGD(model.parameters(), lr=100.0)


def left_out(seed: int) -> tuple[Case, Truth]:
    """An optimiser made from the wrong parameter list: the second block's attention is not in it."""

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        chosen = [parameter for name, parameter in model.named_parameters() if "blocks.1.attention" not in name]
        return torch.optim.AdamW(chosen, lr=3e-3)

    case, _ = small_case("vit", seed=seed, optimizer=optimizer)
    return case, Truth(("left_out_of_optimizer",), ("L1*",))


PLANTED = (
    in_code(
        "cut gradient",
        "key detached",
        "gpt",
        Edit("scores = query @ key.transpose(-2, -1)", "scores = query @ key.detach().transpose(-2, -1)"),
        **CUT,
    ),
    in_code(
        "cut gradient",
        "stream detached",
        "conv3d_attention",
        Edit("attended = self.attention(frames, motion)", "attended = self.attention(frames, motion.detach())"),
        rules=("cut_gradient",),
        places=("*motion*",),
    ),
    in_code(
        "cut gradient",
        "no_grad around the value",
        "encoder",
        Edit(
            "value = self.value(hidden).view(batch, length, self.n_heads, self.d_head).permute(0, 2, 1, 3)",
            "with torch.no_grad():\n    value = self.value(hidden).view(batch, length, self.n_heads, self.d_head)"
            ".permute(0, 2, 1, 3)",
        ),
        **CUT,
    ),
    by_fault_in_library("cut gradient", "cut_gradient", "distilbert", layer=1),
    in_library(
        "cut gradient",
        "query detached",
        "llama",
        Edit(
            "query_states = self.q_proj(hidden_states).view(hidden_shape).transpose(1, 2)",
            "query_states = self.q_proj(hidden_states).detach().view(hidden_shape).transpose(1, 2)",
        ),
        **CUT,
    ),
    by_fault("left out of the optimiser", "frozen_key", "encoder", layer=1),
    Planted("left out of the optimiser", "attention of one block", "vit", left_out),
    by_fault_in_library("left out of the optimiser", "frozen_key", "distilbert", layer=0),
    by_fault_in_library("left out of the optimiser", "frozen_key", "gpt2", layer=1),
    in_code(
        "not registered",
        "list for ModuleList",
        "gpt",
        Edit(GPT_BLOCKS, "self.blocks = [Block(d_model, n_heads, dropout) for _ in range(n_layers)]"),
        **UNREGISTERED,
    ),
    in_code(
        "not registered",
        "list for ModuleList",
        "vit",
        Edit(VIT_BLOCKS, "self.blocks = [Block(d_model, n_heads) for _ in range(n_layers)]"),
        **UNREGISTERED,
    ),
    in_code(
        "not registered",
        "plain tensor",
        "han",
        Edit(
            "self.context = nn.Parameter(torch.randn(d_model) / d_model**0.5)",
            "self.context = (torch.randn(d_model) / d_model**0.5).requires_grad_()",
        ),
        **UNREGISTERED,
    ),
    by_fault("learning rate out of line", "learning_rate_out_of_line", "encoder", layer=0, more_steps=3),
    by_fault_in_library("learning rate out of line", "learning_rate_out_of_line", "distilbert", layer=1, more_steps=3),
    by_fault_in_library("learning rate out of line", "learning_rate_out_of_line", "llama", layer=0, more_steps=3),
    beyond(small_case, "encoder", gradient_descent_too_fast),
    beyond(huggingface_case, "distilbert", gradient_descent_too_fast),
    beyond(small_case, "gpt", gradient_descent_too_fast),
    by_fault("NaN or Inf", "not_finite", "gpt", layer=1, more_steps=0),
    by_fault_in_library("NaN or Inf", "not_finite", "distilbert", layer=0, more_steps=0),
    in_code(
        "NaN or Inf",
        "-inf on an empty sentence",
        "han",
        Edit("scores = scores.masked_fill(~real, -1e9)", 'scores = scores.masked_fill(~real, float("-inf"))'),
        steps=0,
        **NOT_FINITE,
    ),
    in_code(
        "NaN or Inf",
        "root of the scores",
        "vit",
        Edit("scores = query @ key.transpose(-2, -1)", "scores = torch.sqrt(query @ key.transpose(-2, -1))"),
        steps=0,
        **NOT_FINITE,
    ),
)
