"""A causal language model in the manner of GPT-2: learned positions, pre-norm blocks, a key/value cache."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

Cache = tuple[Tensor, Tensor]


class CausalAttention(nn.Module):
    """Multi-head self-attention in which a position sees itself and what came before."""

    def __init__(self, d_model: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.d_head = d_model // n_heads
        self.query = nn.Linear(d_model, d_model)
        self.key = nn.Linear(d_model, d_model)
        self.value = nn.Linear(d_model, d_model)
        self.output = nn.Linear(d_model, d_model)
        self.dropout = nn.Dropout(dropout)

    def split(self, hidden: Tensor) -> Tensor:
        """`[batch, position, d_model]` to `[batch, head, position, d_head]`."""
        batch, length, _ = hidden.shape
        heads = hidden.view(batch, length, self.n_heads, self.d_head)
        return heads.transpose(1, 2)

    def forward(self, hidden: Tensor, past: Cache | None = None) -> tuple[Tensor, Cache]:
        """The attended hidden state, and the keys and values for the next call."""
        query = self.split(self.query(hidden))
        key = self.split(self.key(hidden))
        value = self.split(self.value(hidden))
        if past is not None:
            key = torch.cat([past[0], key], dim=2)
            value = torch.cat([past[1], value], dim=2)
        n_queries, n_keys = query.shape[2], key.shape[2]

        scores = query @ key.transpose(-2, -1)
        scores = scores / math.sqrt(self.d_head)
        ones = torch.ones(n_queries, n_keys, dtype=torch.bool, device=hidden.device)
        allowed = torch.tril(ones, diagonal=n_keys - n_queries)
        scores = scores.masked_fill(~allowed, float("-inf"))
        pattern = torch.softmax(scores, dim=-1)
        pattern = self.dropout(pattern)
        context = pattern @ value

        context = context.transpose(1, 2)
        merged = context.reshape(hidden.shape)
        return self.output(merged), (key, value)


class Block(nn.Module):
    """Attention, then a two-layer network, each on the normalised residual stream."""

    def __init__(self, d_model: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(d_model)
        self.attention = CausalAttention(d_model, n_heads, dropout)
        self.norm_mlp = nn.LayerNorm(d_model)
        self.mlp_in = nn.Linear(d_model, 4 * d_model)
        self.mlp_out = nn.Linear(4 * d_model, d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, past: Cache | None = None) -> tuple[Tensor, Cache]:
        """The residual stream after this block, and its keys and values."""
        normed = self.norm_attention(hidden)
        attended, cache = self.attention(normed, past)
        hidden = hidden + self.dropout(attended)
        normed = self.norm_mlp(hidden)
        inner = nn.functional.gelu(self.mlp_in(normed))
        hidden = hidden + self.dropout(self.mlp_out(inner))
        return hidden, cache


class Gpt(nn.Module):
    """Tokens in, logits of the next token out.

    Args:
        n_tokens: size of the vocabulary.
        n_positions: the longest sequence.
        d_model: width of the residual stream.
        n_heads: heads per attention.
        n_layers: blocks.
        dropout: rate, in train mode.
    """

    def __init__(
        self, *, n_tokens: int = 16, n_positions: int = 32, d_model: int = 32, n_heads: int = 4,
        n_layers: int = 2, dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(n_tokens, d_model)
        self.positions = nn.Embedding(n_positions, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads, dropout) for _ in range(n_layers))
        self.norm = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, n_tokens, bias=False)

    def forward(
        self, input_ids: Tensor, past_key_values: list[Cache] | None = None, use_cache: bool = False
    ) -> Tensor | tuple[Tensor, list[Cache]]:
        """Logits `[batch, position, token]`; with `use_cache` also the keys and values of every layer."""
        n_past = past_key_values[0][0].shape[2] if past_key_values else 0
        places = torch.arange(n_past, n_past + input_ids.shape[1], device=input_ids.device)
        hidden = self.tokens(input_ids)
        hidden = hidden + self.positions(places)
        caches = []
        for number, block in enumerate(self.blocks):
            past = past_key_values[number] if past_key_values else None
            hidden, cache = block(hidden, past)
            caches.append(cache)
        logits = self.head(self.norm(hidden))
        return (logits, caches) if use_cache else logits
