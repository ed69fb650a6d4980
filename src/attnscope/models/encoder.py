"""A text classifier in the manner of DistilBERT: learned positions, post-norm blocks, a padding mask."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """Multi-head self-attention over the tokens that are not padding."""

    def __init__(self, d_model: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.d_head = d_model // n_heads
        self.query = nn.Linear(d_model, d_model)
        self.key = nn.Linear(d_model, d_model)
        self.value = nn.Linear(d_model, d_model)
        self.output = nn.Linear(d_model, d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """The attended hidden state; `attention_mask` `[batch, position]` is 1 on real tokens."""
        batch, length, _ = hidden.shape
        query = self.query(hidden).view(batch, length, self.n_heads, self.d_head).permute(0, 2, 1, 3)
        key = self.key(hidden).view(batch, length, self.n_heads, self.d_head).permute(0, 2, 1, 3)
        value = self.value(hidden).view(batch, length, self.n_heads, self.d_head).permute(0, 2, 1, 3)

        scores = torch.matmul(query, key.transpose(2, 3))
        scores = scores / math.sqrt(self.d_head)
        padding = attention_mask[:, None, None, :] == 0
        scores = scores.masked_fill(padding, torch.finfo(scores.dtype).min)
        pattern = nn.functional.softmax(scores, dim=-1)
        pattern = self.dropout(pattern)
        context = torch.matmul(pattern, value)

        context = context.permute(0, 2, 1, 3)
        merged = context.reshape(batch, length, -1)
        output: Tensor = self.output(merged)
        return output


class Block(nn.Module):
    """Attention, then a two-layer network, each added to its input and normalised."""

    def __init__(self, d_model: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = SelfAttention(d_model, n_heads, dropout)
        self.norm_attention = nn.LayerNorm(d_model)
        self.mlp_in = nn.Linear(d_model, 4 * d_model)
        self.mlp_out = nn.Linear(4 * d_model, d_model)
        self.norm_mlp = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """The hidden state after this block."""
        attended = self.attention(hidden, attention_mask)
        hidden = self.norm_attention(attended + hidden)
        inner = nn.functional.gelu(self.mlp_in(hidden))
        mapped = self.dropout(self.mlp_out(inner))
        hidden = self.norm_mlp(mapped + hidden)
        return hidden


class Encoder(nn.Module):
    """Tokens and their mask in, logits of the classes out, read from the first token.

    Args:
        n_tokens: size of the vocabulary; token 0 pads.
        n_positions: the longest sequence.
        n_classes: classes.
        d_model: width of the hidden state.
        n_heads: heads per attention.
        n_layers: blocks.
        dropout: rate, in train mode.
    """

    def __init__(
        self, *, n_tokens: int = 32, n_positions: int = 24, n_classes: int = 4, d_model: int = 32,
        n_heads: int = 4, n_layers: int = 2, dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(n_tokens, d_model, padding_idx=0)
        self.positions = nn.Embedding(n_positions, d_model)
        self.norm = nn.LayerNorm(d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads, dropout) for _ in range(n_layers))
        self.pre_classifier = nn.Linear(d_model, d_model)
        self.classifier = nn.Linear(d_model, n_classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits `[batch, class]`."""
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        hidden = self.tokens(input_ids)
        hidden = hidden + self.positions(places)
        hidden = self.norm(hidden)
        for block in self.blocks:
            hidden = block(hidden, attention_mask)
        first = hidden[:, 0]
        pooled = torch.relu(self.pre_classifier(first))
        logits: Tensor = self.classifier(pooled)
        return logits
