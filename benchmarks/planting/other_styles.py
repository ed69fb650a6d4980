"""Two models in other people's manner of writing, for mistakes that no rule was tried on before."""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CausalSelfAttention(nn.Module):
    """One fused projection, split by width; the mask is a buffer."""

    def __init__(self, n_embd: int, n_head: int, block_size: int) -> None:
        super().__init__()
        self.c_attn = nn.Linear(n_embd, 3 * n_embd)
        self.c_proj = nn.Linear(n_embd, n_embd)
        self.n_head = n_head
        self.n_embd = n_embd
        self.register_buffer("bias", torch.tril(torch.ones(block_size, block_size))[None, None])

    def forward(self, x: Tensor) -> Tensor:
        """The attended stream."""
        B, T, C = x.size()
        q, k, v = self.c_attn(x).split(self.n_embd, dim=2)
        k = k.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        q = q.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        v = v.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        att = q @ k.transpose(-2, -1)
        att = att * (1.0 / math.sqrt(k.size(-1)))
        att = att.masked_fill(self.bias[:, :, :T, :T] == 0, float("-inf"))
        att = F.softmax(att, dim=-1)
        y = att @ v
        y = y.transpose(1, 2).contiguous().view(B, T, C)
        return self.c_proj(y)


class DecoderLayer(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, n_embd: int, n_head: int, block_size: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(n_embd)
        self.attn = CausalSelfAttention(n_embd, n_head, block_size)
        self.ln_2 = nn.LayerNorm(n_embd)
        self.mlp = nn.Sequential(nn.Linear(n_embd, 4 * n_embd), nn.GELU(), nn.Linear(4 * n_embd, n_embd))

    def forward(self, x: Tensor) -> Tensor:
        """The stream after this layer."""
        x = x + self.attn(self.ln_1(x))
        x = x + self.mlp(self.ln_2(x))
        return x


class FusedDecoder(nn.Module):
    """A language model with tied embeddings."""

    def __init__(self, vocab_size: int = 16, block_size: int = 32, n_embd: int = 32, n_head: int = 4) -> None:
        super().__init__()
        self.wte = nn.Embedding(vocab_size, n_embd)
        self.wpe = nn.Embedding(block_size, n_embd)
        self.h = nn.ModuleList([DecoderLayer(n_embd, n_head, block_size) for _ in range(2)])
        self.ln_f = nn.LayerNorm(n_embd)
        self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)
        nn.init.normal_(self.wte.weight, std=0.1)
        self.lm_head.weight = self.wte.weight

    def forward(self, idx: Tensor) -> Tensor:
        """Logits."""
        pos = torch.arange(idx.size(1), device=idx.device)
        x = self.wte(idx) + self.wpe(pos)
        for layer in self.h:
            x = layer(x)
        x = self.ln_f(x)
        return self.lm_head(x)


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Scaled dot-product attention as a function."""
    d_k = query.size(-1)
    scores = torch.matmul(query, key.transpose(-2, -1)) / math.sqrt(d_k)
    scores = scores.masked_fill(mask == 0, -1e9)
    p_attn = scores.softmax(dim=-1)
    return torch.matmul(p_attn, value)


def clones(module: nn.Module, count: int) -> nn.ModuleList:
    """Identical layers with weights of their own."""
    return nn.ModuleList([copy.deepcopy(module) for _ in range(count)])


class MultiHeadedAttention(nn.Module):
    """Four linear maps in a list."""

    def __init__(self, h: int, d_model: int) -> None:
        super().__init__()
        self.d_k = d_model // h
        self.h = h
        self.linears = clones(nn.Linear(d_model, d_model), 4)
        for linear in self.linears:
            linear.reset_parameters()

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """The attended stream."""
        mask = mask.unsqueeze(1)
        nbatches = query.size(0)
        query, key, value = [
            lin(x).view(nbatches, -1, self.h, self.d_k).transpose(1, 2)
            for lin, x in zip(self.linears, (query, key, value), strict=False)
        ]
        x = attention(query, key, value, mask)
        x = x.transpose(1, 2).contiguous().view(nbatches, -1, self.h * self.d_k)
        return self.linears[-1](x)


class EncoderLayer(nn.Module):
    """Attention and MLP, each behind a norm and beside the stream."""

    def __init__(self, d_model: int, h: int) -> None:
        super().__init__()
        self.self_attn = MultiHeadedAttention(h, d_model)
        self.feed_forward = nn.Sequential(nn.Linear(d_model, 64), nn.ReLU(), nn.Linear(64, d_model))
        self.norms = clones(nn.LayerNorm(d_model), 2)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """The stream after this layer."""
        y = self.norms[0](x)
        x = x + self.self_attn(y, y, y, mask)
        x = x + self.feed_forward(self.norms[1](x))
        return x


class FunctionalEncoder(nn.Module):
    """A text classifier with sinusoidal positions, pooled by the mean of the real tokens."""

    def __init__(self, vocab: int = 32, d_model: int = 32, h: int = 4, classes: int = 4) -> None:
        super().__init__()
        self.lut = nn.Embedding(vocab, d_model)
        position = torch.arange(32).unsqueeze(1)
        div_term = torch.exp(torch.arange(0, d_model, 2) * -(math.log(1000.0) / d_model))
        pe = torch.zeros(32, d_model)
        pe[:, 0::2] = torch.sin(position * div_term)
        pe[:, 1::2] = torch.cos(position * div_term)
        self.register_buffer("pe", pe)
        self.layers = nn.ModuleList([EncoderLayer(d_model, h) for _ in range(2)])
        self.norm = nn.LayerNorm(d_model)
        self.generator = nn.Linear(d_model, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits."""
        x = self.lut(input_ids)
        x = x + self.pe[: x.size(1)]
        mask = attention_mask.unsqueeze(1)
        for layer in self.layers:
            x = layer(x, mask)
        weights = attention_mask.unsqueeze(-1)
        pooled = (self.norm(x) * weights).sum(1) / weights.sum(1)
        return self.generator(pooled)
