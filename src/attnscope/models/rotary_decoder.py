"""A causal language model in the manner of Llama: rotary positions, grouped heads, RMS norms, gated MLP."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class RmsNorm(nn.Module):
    """Divides by the root mean square, then applies a gain."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(d_model))

    def forward(self, hidden: Tensor) -> Tensor:
        """The normalised hidden state."""
        mean_square = hidden.pow(2).mean(-1, keepdim=True)
        return self.gain * hidden * torch.rsqrt(mean_square + 1e-6)


def rotate(heads: Tensor, angles: Tensor) -> Tensor:
    """Turns each pair of coordinates of `[batch, head, position, d_head]` by its position's angle."""
    first, second = heads.chunk(2, dim=-1)
    cosine, sine = angles.cos(), angles.sin()
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)


class GroupedAttention(nn.Module):
    """Causal self-attention with fewer key and value heads than query heads."""

    def __init__(self, d_model: int, n_heads: int, n_key_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.n_key_heads = n_key_heads
        self.d_head = d_model // n_heads
        self.query = nn.Linear(d_model, n_heads * self.d_head, bias=False)
        self.key = nn.Linear(d_model, n_key_heads * self.d_head, bias=False)
        self.value = nn.Linear(d_model, n_key_heads * self.d_head, bias=False)
        self.output = nn.Linear(n_heads * self.d_head, d_model, bias=False)

    def forward(self, hidden: Tensor, angles: Tensor) -> Tensor:
        """The attended hidden state."""
        batch, length, _ = hidden.shape
        query = self.query(hidden).view(batch, length, self.n_heads, self.d_head).transpose(1, 2)
        key = self.key(hidden).view(batch, length, self.n_key_heads, self.d_head).transpose(1, 2)
        value = self.value(hidden).view(batch, length, self.n_key_heads, self.d_head).transpose(1, 2)
        query = rotate(query, angles)
        key = rotate(key, angles)
        key = key.repeat_interleave(self.n_heads // self.n_key_heads, dim=1)
        value = value.repeat_interleave(self.n_heads // self.n_key_heads, dim=1)

        scores = torch.einsum("bhqe,bhke->bhqk", query, key)
        scores = scores * (1 / math.sqrt(self.d_head))
        future = torch.full((length, length), -1e9, device=hidden.device).triu(diagonal=1)
        scores = scores + future
        pattern = scores.softmax(dim=-1)
        context = torch.einsum("bhqk,bhke->bhqe", pattern, value)

        context = context.transpose(1, 2)
        merged = context.reshape(batch, length, -1)
        output: Tensor = self.output(merged)
        return output


class Block(nn.Module):
    """Attention, then a gated network, each on the normalised residual stream."""

    def __init__(self, d_model: int, n_heads: int, n_key_heads: int) -> None:
        super().__init__()
        self.norm_attention = RmsNorm(d_model)
        self.attention = GroupedAttention(d_model, n_heads, n_key_heads)
        self.norm_mlp = RmsNorm(d_model)
        self.gate = nn.Linear(d_model, 3 * d_model, bias=False)
        self.up = nn.Linear(d_model, 3 * d_model, bias=False)
        self.down = nn.Linear(3 * d_model, d_model, bias=False)

    def forward(self, hidden: Tensor, angles: Tensor) -> Tensor:
        """The residual stream after this block."""
        attended = self.attention(self.norm_attention(hidden), angles)
        hidden = hidden + attended
        normed = self.norm_mlp(hidden)
        inner = nn.functional.silu(self.gate(normed)) * self.up(normed)
        hidden = hidden + self.down(inner)
        return hidden


class RotaryDecoder(nn.Module):
    """Tokens in, logits of the next token out.

    Args:
        n_tokens: size of the vocabulary.
        d_model: width of the residual stream.
        n_heads: query heads per attention.
        n_key_heads: key and value heads per attention; divides `n_heads`.
        n_layers: blocks.
    """

    def __init__(
        self, *, n_tokens: int = 16, d_model: int = 32, n_heads: int = 4, n_key_heads: int = 2,
        n_layers: int = 2,
    ) -> None:
        super().__init__()
        self.d_head = d_model // n_heads
        self.tokens = nn.Embedding(n_tokens, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads, n_key_heads) for _ in range(n_layers))
        self.norm = RmsNorm(d_model)
        self.head = nn.Linear(d_model, n_tokens, bias=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits `[batch, position, token]`."""
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        speeds = 100.0 ** (-torch.arange(0, self.d_head, 2, device=input_ids.device) / self.d_head)
        angles = places[:, None] * speeds
        hidden = self.tokens(input_ids)
        for block in self.blocks:
            hidden = block(hidden, angles)
        logits: Tensor = self.head(self.norm(hidden))
        return logits
