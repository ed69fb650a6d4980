"""A small attention model with everything that second order gets wrong elsewhere, at three moments."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from attnscope.anatomy.blocks import Block, ParameterSlice, Role


class TinyAttention(nn.Module):
    """Padded embedding, fused query/key/value, scaled_dot_product_attention, LayerNorm, MLP, dropout."""

    def __init__(self, vocabulary: int = 7, width: int = 4, heads: int = 2, classes: int = 3, dropout=0.0):
        super().__init__()
        self.heads = heads
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=0)
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 6), nn.GELU(), nn.Linear(6, width))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embedding(tokens)
        B, L, D = hidden.shape
        q, k, v = (
            part.view(B, L, self.heads, -1).transpose(1, 2) for part in self.in_proj(hidden).chunk(3, -1)
        )
        mask = (tokens != 0)[:, None, None, :].expand(B, 1, L, L)
        context = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        hidden = self.norm(hidden + self.dropout(self.out_proj(context.transpose(1, 2).reshape(B, L, D))))
        hidden = hidden + self.mlp(hidden)
        return self.classifier(hidden.mean(1))


def tiny_blocks(model: nn.Module, width: int = 4) -> tuple[Block, ...]:
    """Query, key and value are thirds of one parameter; the rest is one block per module."""
    named = dict(model.named_parameters())

    def whole(name: str) -> ParameterSlice:
        return ParameterSlice(name, tuple(named[name].shape))

    def third(name: str, which: int) -> ParameterSlice:
        return ParameterSlice(name, tuple(named[name].shape), 0, ((which * width, (which + 1) * width),))

    letters = {"Q": Role.QUERY, "K": Role.KEY, "V": Role.VALUE}
    found = [
        Block(f"L0.{letter}", role, (third("in_proj.weight", i), third("in_proj.bias", i)), layer=0)
        for i, (letter, role) in enumerate(letters.items())
    ]
    found.append(Block("L0.O", Role.OUTPUT, (whole("out_proj.weight"), whole("out_proj.bias")), layer=0))
    for module, role in {"embedding": Role.EMBEDDING, "norm": Role.NORM, "mlp": Role.MLP,
                         "classifier": Role.CLASSIFIER}.items():
        names = [name for name in named if name.split(".")[0] == module]
        found.append(Block(module, role, tuple(whole(name) for name in names)))
    return tuple(found)


def tiny_loss(model: nn.Module, batch: Any) -> Tensor:
    tokens, targets = batch
    return nn.functional.cross_entropy(model(tokens), targets)


def tiny_batch(n: int = 12, length: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, 7, (n, length), generator=generator)
    tokens[::3, -2:] = 0
    targets = tokens.clamp(max=5).sum(1) % 3
    return tokens, targets
