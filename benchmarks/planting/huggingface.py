"""Small Hugging Face models, from the library's own source with an edit, on the small tasks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn

from attnscope import catalogue
from attnscope.case import Case
from attnscope.faults import copy_of
from attnscope.tasks import Task
from planting.editing import Edit, edited
from planting.moment import steps_of, training_share
from planting.planted import Planted, Truth, loss_of
from planting.small import FRESH

transformers.logging.set_verbosity_error()
NARROW = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


@dataclass(frozen=True)
class Family:
    """A model family: which file and class, the configuration of a small one, and the task it learns."""

    module: str
    model: str
    config: str
    settings: Mapping[str, Any]
    task: str


FAMILIES = {
    "distilbert": Family(
        "transformers.models.distilbert.modeling_distilbert",
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        {
            "vocab_size": 32,
            "dim": 32,
            "n_layers": 2,
            "n_heads": 4,
            "hidden_dim": 64,
            "num_labels": 4,
            "max_position_embeddings": 32,
            "seq_classif_dropout": 0.0,
            "dropout": 0.0,
            "attention_dropout": 0.0,
        },
        "topic_and_place",
    ),
    "gpt2": Family(
        "transformers.models.gpt2.modeling_gpt2",
        "GPT2LMHeadModel",
        "GPT2Config",
        {
            "vocab_size": 16,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 32,
            "bos_token_id": 1,
            "eos_token_id": 1,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
        },
        "copying",
    ),
    "llama": Family(
        "transformers.models.llama.modeling_llama",
        "LlamaForCausalLM",
        "LlamaConfig",
        {
            "vocab_size": 16,
            **NARROW,
            "num_key_value_heads": 2,
            "intermediate_size": 64,
            "bos_token_id": 1,
            "eos_token_id": 1,
            "pad_token_id": 0,
            "max_position_embeddings": 32,
        },
        "copying",
    ),
}


def huggingface_batch(task: Task, number: int, n_examples: int) -> dict[str, Any]:
    """A task's batch in the form of Hugging Face: keywords, with `labels`."""
    inputs, targets = task.batch(number, n_examples)
    if isinstance(inputs, Mapping):
        return {**inputs, "labels": targets}
    tokens = torch.cat([inputs, targets[:, -1:]], dim=1)
    return {"input_ids": tokens, "labels": tokens.clone()}


def train(
    model: nn.Module,
    batches: Callable[[int, int], dict[str, Any]],
    *,
    steps: int,
    lr: float = 3e-3,
    optimizer: torch.optim.Optimizer | None = None,
    first: int = 0,
) -> torch.optim.Optimizer:
    """Trains on the model's own loss, in place."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = optimizer or torch.optim.AdamW(trainable, lr=lr, weight_decay=0.01)
    model.train()
    for step in range(first, first + steps_of(steps)):
        loss = model(**batches(step, 32)).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return optimizer


def huggingface_case(
    name: str,
    *edits: Edit,
    seed: int = 0,
    steps: int = 200,
    implementation: str = "eager",
    lr: float = 3e-3,
    config: Mapping[str, Any] | None = None,
    change: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    prepare: Callable[[nn.Module], None] | None = None,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
) -> tuple[Case, tuple[Any, ...]]:
    """A case around a small model of a family, from its (edited) source, trained on its task.

    Args:
        name: of the family.
        edits: of the library's modelling file.
        seed: of initialisation and data.
        steps: of training.
        implementation: `eager` or `sdpa`.
        lr: learning rate.
        config: settings beside the family's.
        change: of every batch, in training and in the case.
        prepare: what is done to the model before training.
        optimizer: made for the model; AdamW when None.

    Returns:
        The case, and the edited lines.
    """
    family = FAMILIES[name]
    module, lines = edited(family.module, *edits)
    settings = {**family.settings, **(config or {}), "attn_implementation": implementation}
    torch.manual_seed(seed)
    model = getattr(module, family.model)(getattr(transformers, family.config)(initializer_range=0.1, **settings))
    if prepare is not None:
        prepare(model)
    task: Task = catalogue.load("tasks", family.task)(seed=seed)

    def batch(number: int, n_examples: int) -> dict[str, Any]:
        made = huggingface_batch(task, number, n_examples)
        return made if change is None else change(made)

    used = train(model, batch, steps=steps, lr=lr, optimizer=optimizer(model) if optimizer else None)
    batches = [batch(FRESH + number, 16) for number in range(2)]
    return Case(model, batches, optimizer=used, name=f"hf-{name}"), lines


@functools.cache
def _healthy(name: str, seed: int, implementation: str, share: float) -> Case:
    return huggingface_case(name, seed=seed, implementation=implementation)[0]


def healthy(name: str, seed: int = 0, implementation: str = "eager") -> Case:
    """A copy of the healthy trained model, which is trained only once."""
    return copy_of(_healthy(name, seed, implementation, training_share()))


def in_library(
    kind: str,
    variant: str,
    name: str,
    *edits: Edit,
    rules: tuple[str, ...],
    places: tuple[str, ...],
    effort: str = "standard",
    **settings: Any,
) -> Planted:
    """A mistake that is an edit of the library's source."""

    def make(seed: int) -> tuple[Case, Truth]:
        case, lines = huggingface_case(name, *edits, seed=seed, **settings)
        return case, Truth(rules, places, lines)

    return Planted(kind, variant, f"hf-{name}", make, effort)


def by_fault_in_library(
    kind: str,
    fault: str,
    name: str,
    *,
    effort: str = "standard",
    more_steps: int = 20,
    implementation: str = "eager",
    **fields: Any,
) -> Planted:
    """A mistake from `attnscope.faults`, injected into a trained model of a family that trains on with it."""

    def make(seed: int) -> tuple[Case, Truth]:
        case = healthy(name, seed, implementation)
        member = catalogue.load("faults", fault)(**fields)
        label = member.label(case)
        injected = member.inject(case)
        task: Task = catalogue.load("tasks", FAMILIES[name].task)(seed=seed)
        train(
            injected.model,
            lambda number, size: huggingface_batch(task, number, size),
            steps=more_steps,
            optimizer=injected.optimizer,
            first=200,
        )
        losses = None if more_steps else (loss_of(case), loss_of(injected))
        return injected, Truth(member.recognised_as, label.places, losses=losses)

    variant = fault.replace("_", " ") + ("" if implementation == "eager" else f" {implementation}")
    return Planted(kind, variant, f"hf-{name}", make, effort)
