"""Hand-written attentions: positions, shared heads, mixed heads, windows, and what surrounds an attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .zoo_scores import Heads, seen


class Block(nn.Module):
    """Residual and normalisation around an attention, in the order asked for."""

    def __init__(self, place: str = "pre", residual: bool = True, d_model: int = 32) -> None:
        super().__init__()
        self.place, self.residual = place, residual
        self.norm = nn.LayerNorm(d_model)
        self.attention = Plain(d_model)
        self.norm_2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 48), nn.GELU(), nn.Linear(48, d_model))

    def forward(self, x: Tensor, keep: list | None = None) -> Tensor:
        if self.place == "pre":
            mixed = self.attention(self.norm(x), keep=keep)
            x = x + mixed if self.residual else mixed
            return x + self.mlp(self.norm_2(x))
        mixed = self.attention(x, keep=keep)
        x = self.norm(x + mixed if self.residual else mixed)
        return self.norm_2(x + self.mlp(x))


class Plain(Heads):
    """Nothing special."""

    def forward(self, x: Tensor, keep: list | None = None) -> Tensor:
        q, k, v = self.split(self.w_q(x)), self.split(self.w_k(x)), self.split(self.w_v(x))
        scores = q @ k.transpose(-2, -1) * self.d_head**-0.5  # <- scores scale
        pattern = scores.softmax(-1)  # <- softmax
        seen(keep, scores, pattern)
        return self.w_o(self.merge(pattern @ v))  # <- value


class InnerResidual(Heads):
    """The module adds its own input."""

    def forward(self, x: Tensor, keep: list | None = None) -> Tensor:
        q, k, v = self.split(self.w_q(x)), self.split(self.w_k(x)), self.split(self.w_v(x))
        scores = q @ k.transpose(-2, -1) * self.d_head**-0.5  # <- scores scale
        pattern = scores.softmax(-1)  # <- softmax
        seen(keep, scores, pattern)
        return x + self.w_o(self.merge(pattern @ v))  # <- value residual


class TokensAndPositions(nn.Module):
    """Token and learned position embeddings under one plain attention, tied output embedding."""

    def __init__(self, positions: str = "learned", d_model: int = 32) -> None:
        super().__init__()
        self.tokens = nn.Embedding(30, d_model)
        self.kind = positions
        if positions == "learned":
            self.positions = nn.Embedding(16, d_model)
        elif positions == "sinusoid":
            angles = torch.arange(16)[:, None] / 100 ** (torch.arange(0, d_model, 2) / d_model)
            self.register_buffer("table", torch.cat([angles.sin(), angles.cos()], 1))
        self.block = Block("pre")
        self.out = nn.Linear(d_model, 30, bias=False)
        self.out.weight = self.tokens.weight

    def forward(self, tokens: Tensor, keep: list | None = None) -> Tensor:
        x = self.tokens(tokens)
        if self.kind == "learned":
            x = x + self.positions(torch.arange(tokens.shape[1]))
        elif self.kind == "sinusoid":
            x = x + self.table[: tokens.shape[1]]
        return self.out(self.block(x, keep=keep))


class Rotary(Heads):
    """Rotates neighbouring pairs as complex numbers, on the sides asked for."""

    def __init__(self, sides: tuple[str, ...] = ("query", "key")) -> None:
        super().__init__()
        self.sides = sides

    def turn(self, x: Tensor) -> Tensor:
        angles = torch.arange(x.shape[2])[:, None] / 50 ** (torch.arange(0, self.d_head, 2) / self.d_head)
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2).contiguous())
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)

    def forward(self, x: Tensor, keep: list | None = None) -> Tensor:
        q, k, v = self.split(self.w_q(x)), self.split(self.w_k(x)), self.split(self.w_v(x))
        if "query" in self.sides:
            q = self.turn(q)
        if "key" in self.sides:
            k = self.turn(k)
        if "value" in self.sides:
            v = self.turn(v)
        scores = q @ k.transpose(-2, -1) * self.d_head**-0.5  # <- scores scale
        pattern = scores.softmax(-1)  # <- softmax
        seen(keep, scores, pattern)
        return self.w_o(self.merge(pattern @ v))  # <- value


class Alibi(Heads):
    """Adds a linear bias by distance, then a causal mask."""

    def forward(self, x: Tensor, keep: list | None = None) -> Tensor:
        q, k, v = self.split(self.w_q(x)), self.split(self.w_k(x)), self.split(self.w_v(x))
        n = x.shape[1]
        distance = torch.arange(n)[None, :] - torch.arange(n)[:, None]
        slopes = 2.0 ** -torch.arange(1, self.n_heads + 1)
        scores = q @ k.transpose(-2, -1) * self.d_head**-0.5  # <- scores scale
        scores = scores + slopes[:, None, None] * distance
        scores = scores.masked_fill(distance > 0, float("-inf"))  # <- mask
        pattern = scores.softmax(-1)  # <- softmax
        seen(keep, scores, pattern)
        return self.w_o(self.merge(pattern @ v))  # <- value


class GroupedHeads(nn.Module):
    """Fewer key and value heads than query heads, repeated, or broadcast when there is only one."""

    def __init__(self, n_key_heads: int, d_model: int = 32, n_heads: int = 4) -> None:
        super().__init__()
        self.n_heads, self.n_key_heads, self.d_head = n_heads, n_key_heads, d_model // n_heads
        self.q = nn.Linear(d_model, d_model, bias=False)
        self.k = nn.Linear(d_model, n_key_heads * self.d_head, bias=False)
        self.v = nn.Linear(d_model, n_key_heads * self.d_head, bias=False)
        self.o = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor, keep: list | None = None) -> Tensor:
        b, n, d = x.shape
        q = self.q(x).view(b, n, self.n_heads, -1).transpose(1, 2)
        k = self.k(x).view(b, n, self.n_key_heads, -1).transpose(1, 2)
        v = self.v(x).view(b, n, self.n_key_heads, -1).transpose(1, 2)
        if self.n_key_heads > 1:
            k, v = (each.repeat_interleave(self.n_heads // self.n_key_heads, dim=1) for each in (k, v))
        scores = q @ k.transpose(-2, -1) * self.d_head**-0.5  # <- scores scale
        pattern = scores.softmax(-1)  # <- softmax
        seen(keep, scores, pattern)
        return self.o((pattern @ v).transpose(1, 2).reshape(b, n, d))  # <- value


class TalkingHeads(Heads):
    """Mixes the heads before and after the softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.mix_scores = nn.Parameter(torch.eye(4) + 0.1 * torch.randn(4, 4))
        self.mix_pattern = nn.Parameter(torch.eye(4) + 0.1 * torch.randn(4, 4))

    def forward(self, x: Tensor, keep: list | None = None) -> Tensor:
        q, k, v = self.split(self.w_q(x)), self.split(self.w_k(x)), self.split(self.w_v(x))
        scores = q @ k.transpose(-2, -1) * self.d_head**-0.5  # <- scores scale
        scores = torch.einsum("bhqk,hg->bgqk", scores, self.mix_scores)
        pattern = scores.softmax(-1)  # <- softmax
        pattern = torch.einsum("bhqk,hg->bgqk", pattern, self.mix_pattern)
        seen(keep, scores, pattern)
        return self.w_o(self.merge(pattern @ v))  # <- value


class PositionsMixed(Heads):
    """A mistake: heads are split by a view without the transpose, so a head mixes positions and features."""

    def forward(self, x: Tensor, keep: list | None = None) -> Tensor:
        b, n, d = x.shape
        q, k, v = (w(x).view(b, self.n_heads, n, self.d_head) for w in (self.w_q, self.w_k, self.w_v))
        scores = q @ k.transpose(-2, -1) * self.d_head**-0.5  # <- scores scale
        pattern = scores.softmax(-1)  # <- softmax
        seen(keep, scores, pattern)
        return self.w_o((pattern @ v).view(b, n, d))  # <- value


class MergeMixed(Heads):
    """A mistake: heads are merged without the transpose."""

    def forward(self, x: Tensor, keep: list | None = None) -> Tensor:
        q, k, v = self.split(self.w_q(x)), self.split(self.w_k(x)), self.split(self.w_v(x))
        scores = q @ k.transpose(-2, -1) * self.d_head**-0.5  # <- scores scale
        pattern = scores.softmax(-1)  # <- softmax
        seen(keep, scores, pattern)
        return self.w_o((pattern @ v).reshape(x.shape))  # <- value


class BatchLast(nn.Module):
    """Attention over the first axis, as nn.MultiheadAttention has it by default."""

    def __init__(self, turned: bool) -> None:
        super().__init__()
        self.turned = turned
        self.embed = nn.Embedding(30, 32)
        self.attention = nn.MultiheadAttention(32, 4)
        self.out = nn.Linear(32, 30)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        if self.turned:
            x = x.transpose(0, 1)
        x, _ = self.attention(x, x, x, need_weights=False)
        return self.out(x.transpose(0, 1) if self.turned else x)


class Windows(nn.Module):
    """Attention inside windows of four positions, with a learned relative bias."""

    def __init__(self, d_model: int = 24, n_heads: int = 3, window: int = 4) -> None:
        super().__init__()
        self.n_heads, self.d_head, self.window = n_heads, d_model // n_heads, window
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.proj = nn.Linear(d_model, d_model)
        self.relative_bias = nn.Parameter(torch.randn(2 * window - 1, n_heads) * 0.1)

    def forward(self, x: Tensor, keep: list | None = None) -> Tensor:
        b, n, d = x.shape
        w = self.window
        x = x.view(b * n // w, w, d)
        q, k, v = self.qkv(x).view(-1, w, 3, self.n_heads, self.d_head).permute(2, 0, 3, 1, 4)
        index = torch.arange(w)[:, None] - torch.arange(w)[None, :] + w - 1
        scores = (q * self.d_head**-0.5) @ k.transpose(-2, -1)  # <- scores scale
        scores = scores + self.relative_bias[index].permute(2, 0, 1)
        pattern = F.softmax(scores, dim=-1)  # <- softmax
        seen(keep, scores, pattern)
        return self.proj((pattern @ v).transpose(1, 2).reshape(-1, w, d)).view(b, n, d)  # <- value


class AcrossTime(Heads):
    """Attention over time in [batch, time, place, width]: places are folded into the batch."""

    def forward(self, x: Tensor, keep: list | None = None) -> Tensor:
        b, t, s, d = x.shape
        x = x.permute(0, 2, 1, 3).reshape(b * s, t, d)
        q, k, v = self.split(self.w_q(x)), self.split(self.w_k(x)), self.split(self.w_v(x))
        scores = q @ k.transpose(-2, -1) * self.d_head**-0.5  # <- scores scale
        pattern = scores.softmax(-1)  # <- softmax
        seen(keep, scores, pattern)
        mixed = self.w_o(self.merge(pattern @ v))  # <- value
        return mixed.view(b, s, t, d).permute(0, 2, 1, 3)


class CosineHeads(Heads):
    """Normalised queries and keys and a learned temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(9.0))

    def forward(self, x: Tensor, keep: list | None = None) -> Tensor:
        q, k, v = self.split(self.w_q(x)), self.split(self.w_k(x)), self.split(self.w_v(x))
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        scores = self.temperature * (q @ k.transpose(-2, -1))  # <- scores scale
        pattern = scores.softmax(-1)  # <- softmax
        seen(keep, scores, pattern)
        return self.w_o(self.merge(pattern @ v))  # <- value
