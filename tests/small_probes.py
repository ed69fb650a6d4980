"""Fresh probes of small models, one per kind of attention, each the same at every call."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn

from attnscope.anatomy.blocks import Anatomy
from attnscope.anatomy.trace import trace
from attnscope.case import Expectations
from attnscope.models.gpt import Gpt
from attnscope.models.han import Han
from attnscope.probe import Probe
from attnscope.start import start_of

Parts = tuple[nn.Module, Any, dict[str, Any], Any]


def next_token(output: torch.Tensor, batch: Any) -> torch.Tensor:
    return nn.functional.cross_entropy(output[:, :-1].flatten(0, 1), batch["input_ids"][:, 1:].flatten())


def gpt() -> Parts:
    model = Gpt(n_tokens=11, n_positions=8, d_model=12, n_heads=3, dropout=0.1)
    return model, {"input_ids": torch.randint(1, 11, (4, 7))}, {"causal": True}, next_token


def han() -> Parts:
    documents = torch.randint(1, 13, (3, 3, 5))
    documents[0, 1, 3:] = documents[1, 2] = documents[2, 0, 4:] = 0
    model = Han(n_tokens=13, n_classes=3, d_embedding=6, d_hidden=4)
    return model, (documents, torch.tensor([0, 2, 1])), {"padding_token": 0}, None


def distilbert() -> Parts:
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    config = DistilBertConfig(
        vocab_size=17, dim=12, hidden_dim=16, n_layers=2, n_heads=3, max_position_embeddings=8,
        attn_implementation="sdpa",
    )
    tokens = torch.randint(1, 17, (4, 6))
    mask = torch.ones(4, 6, dtype=torch.long)
    mask[0, 4:] = mask[2, 5:] = 0
    batch = {"input_ids": tokens * mask, "attention_mask": mask, "labels": torch.tensor([0, 1, 1, 0])}
    return DistilBertForSequenceClassification(config), batch, {"padding_mask": "attention_mask"}, None


def plain() -> Parts:
    """No attention at all."""
    model = nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))
    return model, (torch.randn(6, 5), torch.randint(0, 3, (6,))), {}, None


MODELS: dict[str, Callable[[], Parts]] = {"gpt": gpt, "han": han, "distilbert": distilbert, "plain": plain}


@cache
def _parts(name: str) -> tuple[nn.Module, Any, dict[str, Any], Any, Anatomy]:
    torch.manual_seed(0)
    model, batch, expects, loss = MODELS[name]()
    return model, batch, expects, loss, trace(model.eval(), batch)


def probe(name: str) -> Probe:
    """A probe of an Adam-trained model in train mode, after one step, with gradients left from it."""
    prototype, batch, expects, loss, anatomy = _parts(name)
    model = copy.deepcopy(prototype)
    batch = copy.deepcopy(batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    more = {} if loss is None else {"loss": loss}
    made = Probe(
        model=model, batches=(batch,), anatomy=anatomy, optimizer=optimizer, expects=Expectations.of(expects),
        start=start_of(model), **more,
    )
    torch.manual_seed(1)
    made.loss_of(model.train(), batch).backward()
    optimizer.step()
    return made
