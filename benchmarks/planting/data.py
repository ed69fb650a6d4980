"""Planted mistakes: data and loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from planting.editing import Edit
from planting.huggingface import in_library
from planting.small import in_code

UNSHIFTED: dict[str, Any] = {"rules": ("labels_unshifted",), "places": ("data", "model", "labels", "loss")}
NO_SIGNAL: dict[str, Any] = {"rules": ("labels_without_signal",), "places": ("data", "model", "labels", "loss")}


def same_as_input(inputs: Any, targets: Tensor) -> tuple[Any, Tensor]:
    """The target is the input."""
    return inputs, inputs.clone()


def drawn_by_chance(inputs: Any, targets: Tensor) -> tuple[Any, Tensor]:
    """Labels exchanged among the examples of each batch."""
    first = next(iter(inputs.values())) if isinstance(inputs, dict) else inputs
    random = torch.Generator().manual_seed(int(first.double().sum().item() * 1000) % 2**31)
    return inputs, targets[torch.randperm(len(targets), generator=random)]


def library_drawn_by_chance(batch: dict[str, Any]) -> dict[str, Any]:
    """The same for a batch of Hugging Face."""
    _, labels = drawn_by_chance({"input_ids": batch["input_ids"]}, batch["labels"])
    return {**batch, "labels": labels}


PLANTED = (
    in_code("labels unshifted", "target is the input", "gpt", change=same_as_input, **UNSHIFTED),
    in_code("labels unshifted", "target is the input", "rotary_decoder", change=same_as_input, **UNSHIFTED),
    in_library(
        "labels unshifted",
        "shift lost in the loss",
        "gpt2",
        Edit(
            "loss = self.loss_function(",
            "loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())\n_ = self.loss_function(",
            nth=0,
        ),
        **UNSHIFTED,
    ),
    in_code("labels without signal", "exchanged", "encoder", change=drawn_by_chance, **NO_SIGNAL),
    in_code("labels without signal", "exchanged", "vit", change=drawn_by_chance, **NO_SIGNAL),
    in_library("labels without signal", "exchanged", "distilbert", change=library_drawn_by_chance, **NO_SIGNAL),
)
