"""The tiny DistilBERT that learns from scratch, the same for every text it is given."""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch

from attnscope.bench.subjects._tables import Table
from attnscope.bench.subjects._text import as_encoder_batch
from attnscope.case import Case
from attnscope.models.distilbert import Distilbert

N_TOKENS, LENGTH = 2000, 20
BATCH, PROBE, TESTED = 32, 16, 64
LEARNING_RATE = 1e-3
STEPS, WARMUP = 160, 40


def tiny_case(name: str, table: Table, *, n_classes: int, seed: int) -> Case:
    """The untrained model, 4 layers, 64 wide, 4 heads, with batches of the table's last rows to look at it."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    model = Distilbert(n_layers=4, n_classes=n_classes, n_tokens=N_TOKENS, n_positions=LENGTH, seed=seed).build()
    return Case(
        model,
        [as_encoder_batch(inputs, labels) for inputs, labels in table.probes(PROBE)],
        optimizer=torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01),
        expects={"causal": False, "padding_mask": "attention_mask"},
        name=name,
    )


def transformers_unavailable() -> str:
    """Empty when transformers is installed, else what to install."""
    if find_spec("transformers") is None:
        return "DistilBERT comes from transformers, which is not installed; run: pip install 'attnscope[hf]'"
    return ""
