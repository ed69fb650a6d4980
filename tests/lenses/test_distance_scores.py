"""Scores under rotary positions depend on distance alone: in healthy models to rounding, and not otherwise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attnscope.anatomy.trace import trace
from attnscope.examine import diagnose
from attnscope.lenses.distance_scores import DistanceScores
from attnscope.probe import Probe


def rotation(positions: Tensor, width: int) -> tuple[Tensor, Tensor]:
    angles = positions[:, None] / 100 ** (torch.arange(0, width, 2) / width)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


class Decoder(nn.Module):
    """One causal attention; `how` turns the key by the wrong angle."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.tokens = nn.Embedding(20, 16)
        self.query, self.key, self.value, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 20)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids)
        n = ids.shape[1]
        normed, parts = self.norm(x), (self.query, self.key, self.value)
        q, k, v = (part(normed).view(*ids.shape, 2, 8).transpose(1, 2) for part in parts)
        places = torch.arange(n)
        cos, sin = rotation(places, 8)
        other = rotation(places * 2, 8) if self.how == "twice the angle" else (cos, sin)
        other = (sin, cos) if self.how == "exchanged" else other
        other = rotation(places + 3, 8) if self.how == "three places on" else other
        scores = turned(q, cos, sin) @ turned(k, *other).transpose(-1, -2) / 8**0.5
        seen = torch.ones(n, n, dtype=torch.bool).tril()
        pattern = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        return self.head(x + self.out((pattern @ v).transpose(1, 2).flatten(2)))


def parts(how: str) -> tuple[Decoder, Any]:
    torch.manual_seed(0)
    ids = torch.randint(0, 20, (4, 13))
    return Decoder(how), (ids[:, :-1], ids[:, 1:])


@pytest.mark.parametrize(
    ("how", "differs"), [("healthy", False), ("three places on", False), ("twice the angle", True), ("exchanged", True)]
)
def test_the_identity(how: str, differs: bool) -> None:
    model, batch = parts(how)
    reading = DistanceScores().measure(Probe(model, (batch,), trace(model, batch)))
    assert bool(reading.facts["violated"]) == differs
    assert (float(reading.values[0]) > 1e-2) == differs
    assert (float(reading.values[0]) < 1e-6) != differs


def test_the_rule_names_it() -> None:
    model, batch = parts("twice the angle")
    first = diagnose(model, [batch], expects={"causal": True}).at_least("warning")[0]
    assert (first.code, first.block_or_site) == ("POS404", "L0.positions")
    model, batch = parts("healthy")
    assert not diagnose(model, [batch], expects={"causal": True}).at_least("warning")


def test_not_where_other_positions_are() -> None:
    pytest.importorskip("transformers")
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=16, n_embd=16, n_layer=1, n_head=2))
    batch = {"input_ids": torch.randint(0, 20, (2, 8))}
    reading = DistanceScores().measure(Probe(model, (batch,), trace(model, batch)))
    assert reading.status == "not_applicable"


@pytest.mark.parametrize("name", ["Llama", "GPTNeoX", "Qwen3", "Gemma2", "ModernBert", "SmolLM3"])
def test_published_models(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    common = {
        "vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4,
        "num_attention_heads": 4, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if name not in ("GPTNeoX", "ModernBert"):
        common["num_key_value_heads"] = 2
    if name == "ModernBert":
        common |= {"cls_token_id": 1, "sep_token_id": 2}
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(getattr(transformers, f"{name}Config")(**common))
    batch = {"input_ids": torch.randint(3, 50, (2, 24))}
    reading = DistanceScores().measure(Probe(model, (batch,), trace(model, batch)))
    assert reading.status == "ok", reading.note
    assert reading.facts["violated"] == []
