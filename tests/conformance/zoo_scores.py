"""Hand-written attentions: many ways to make the same scores and to split the same heads.

Every model takes `keep`, a list that receives the canonical scores and pattern [batch, head, query, key] of
each attention: the naive twin of what `observe` returns. A comment `# <- step` marks the line of a step.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def seen(keep: list | None, scores: Tensor, pattern: Tensor) -> None:
    if keep is not None:
        keep.append({"scores": scores.detach(), "pattern": pattern.detach()})


class Heads(nn.Module):
    """Four linear maps, and the usual split of their outputs into heads."""

    def __init__(self, d_model: int = 32, n_heads: int = 4, bias: bool = True) -> None:
        super().__init__()
        self.n_heads, self.d_head = n_heads, d_model // n_heads
        self.w_q = nn.Linear(d_model, d_model, bias=bias)
        self.w_k = nn.Linear(d_model, d_model, bias=bias)
        self.w_v = nn.Linear(d_model, d_model, bias=bias)
        self.w_o = nn.Linear(d_model, d_model, bias=bias)

    def split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.n_heads, self.d_head).transpose(1, 2)

    def merge(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1)


class Einsum(Heads):
    """einsum over [batch, position, head, width]; padded keys by masked_fill."""

    def forward(self, x: Tensor, mask: Tensor, keep: list | None = None) -> Tensor:
        b, n, _ = x.shape
        q = self.w_q(x).view(b, n, self.n_heads, self.d_head)
        k = self.w_k(x).view(b, n, self.n_heads, self.d_head)
        v = self.w_v(x).view(b, n, self.n_heads, self.d_head)
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k)  # <- scores
        scores = scores / math.sqrt(self.d_head)  # <- scale
        scores = scores.masked_fill(~mask[:, None, None, :], float("-inf"))  # <- mask
        pattern = scores.softmax(dim=-1)  # <- softmax
        seen(keep, scores, pattern)
        return self.w_o(torch.einsum("bhqk,bkhd->bqhd", pattern, v).reshape(b, n, -1))  # <- value


class EinsumWeights(nn.Module):
    """Projections are three-dimensional parameters, contracted by einsum; padded keys by where."""

    def __init__(self, d_model: int = 32, n_heads: int = 4, d_head: int = 6) -> None:
        super().__init__()
        self.W_Q = nn.Parameter(torch.randn(n_heads, d_model, d_head) * 0.2)
        self.W_K = nn.Parameter(torch.randn(n_heads, d_model, d_head) * 0.2)
        self.W_V = nn.Parameter(torch.randn(n_heads, d_model, d_head) * 0.2)
        self.W_O = nn.Parameter(torch.randn(n_heads, d_head, d_model) * 0.2)
        self.b_Q = nn.Parameter(torch.randn(n_heads, d_head) * 0.2)
        self.b_O = nn.Parameter(torch.zeros(d_model))

    def forward(self, x: Tensor, mask: Tensor, keep: list | None = None) -> Tensor:
        q = torch.einsum("bld,hde->blhe", x, self.W_Q) + self.b_Q
        k = torch.einsum("bld,hde->blhe", x, self.W_K)
        v = torch.einsum("bld,hde->blhe", x, self.W_V)
        scores = torch.einsum("bqhe,bkhe->bhqk", q, k) / 6**0.5  # <- scores scale
        scores = torch.where(mask[:, None, None, :], scores, torch.tensor(-1e9))  # <- mask
        pattern = torch.softmax(scores, -1)  # <- softmax
        seen(keep, scores, pattern)
        mixed = torch.einsum("bhqk,bkhe->bqhe", pattern, v)  # <- value
        return torch.einsum("bqhe,hed->bqd", mixed, self.W_O) + self.b_O


class Bmm(Heads):
    """Heads folded into the batch for bmm; the query is scaled; an additive mask."""

    def forward(self, x: Tensor, bias: Tensor, keep: list | None = None) -> Tensor:
        b, n, d = x.shape
        q = self.split(self.w_q(x) * self.d_head**-0.5).reshape(b * self.n_heads, n, -1)  # <- scale
        k = self.split(self.w_k(x)).reshape(b * self.n_heads, n, -1)
        v = self.split(self.w_v(x)).reshape(b * self.n_heads, n, -1)
        scores = torch.bmm(q, k.transpose(1, 2))  # <- scores
        scores = scores.view(b, self.n_heads, n, n) + bias  # <- mask
        scores = scores.view(b * self.n_heads, n, n)
        pattern = F.softmax(scores, dim=2)  # <- softmax
        seen(keep, scores.view(b, self.n_heads, n, n), pattern.view(b, self.n_heads, n, n))
        mixed = torch.bmm(pattern, v)  # <- value
        return self.w_o(mixed.view(b, self.n_heads, n, -1).transpose(1, 2).reshape(b, n, d))


class Baddbmm(Heads):
    """The mask and the scale are arguments of baddbmm."""

    def forward(self, x: Tensor, bias: Tensor, keep: list | None = None) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (self.split(w(x)).reshape(b * self.n_heads, n, -1) for w in (self.w_q, self.w_k, self.w_v))
        bias = bias.expand(b, self.n_heads, n, n).reshape(b * self.n_heads, n, n)
        scores = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=self.d_head**-0.5)  # <- scores scale mask
        pattern = F.softmax(scores, dim=-1)  # <- softmax
        seen(keep, scores.view(b, self.n_heads, n, n), pattern.view(b, self.n_heads, n, n))
        return self.w_o(self.merge((pattern @ v).view(b, self.n_heads, n, -1)))  # <- value


class Chunked(nn.Module):
    """Fused projection cut by chunk, `@`, a causal mask from a buffer (as in nanoGPT)."""

    def __init__(self, d_model: int = 32, n_heads: int = 4, size: int = 16, dropout: float = 0.0) -> None:
        super().__init__()
        self.n_heads, self.d_head = n_heads, d_model // n_heads
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)
        self.drop = nn.Dropout(dropout)
        self.register_buffer("causal", torch.tril(torch.ones(size, size)).view(1, 1, size, size))

    def forward(self, x: Tensor, keep: list | None = None) -> Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q, k, v = (part.view(b, n, self.n_heads, self.d_head).transpose(1, 2) for part in (q, k, v))
        scores = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))  # <- scores scale
        scores = scores.masked_fill(self.causal[:, :, :n, :n] == 0, float("-inf"))  # <- mask
        pattern = F.softmax(scores, dim=-1)  # <- softmax
        seen(keep, scores, pattern)
        pattern = self.drop(pattern)  # <- dropout
        return self.out((pattern @ v).transpose(1, 2).contiguous().view(b, n, d))  # <- value


class Interleaved(nn.Module):
    """Fused projection whose rows run head by head: query, key, value of head 0, then of head 1."""

    def __init__(self, d_model: int = 32, n_heads: int = 4) -> None:
        super().__init__()
        self.n_heads, self.d_head = n_heads, d_model // n_heads
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, keep: list | None = None) -> Tensor:
        b, n, d = x.shape
        fused = self.qkv(x).reshape(b, n, self.n_heads, 3 * self.d_head).permute(0, 2, 1, 3)
        q, k, v = fused.split(self.d_head, dim=-1)
        scores = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(self.d_head)  # <- scores scale
        pattern = scores.softmax(-1)  # <- softmax
        seen(keep, scores, pattern)
        return self.out(torch.matmul(pattern, v).permute(0, 2, 1, 3).reshape(b, n, d))  # <- value


class HeadsFastest(nn.Module):
    """Rows of a projection run through the heads first: row r belongs to head r % n_heads."""

    def __init__(self, d_model: int = 32, n_heads: int = 4) -> None:
        super().__init__()
        self.n_heads, self.d_head = n_heads, d_model // n_heads
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor, keep: list | None = None) -> Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.d_head, self.n_heads).permute(2, 0, 4, 1, 3)
        scores = q @ k.mT * self.d_head**-0.5  # <- scores scale
        pattern = scores.softmax(-1)  # <- softmax
        seen(keep, scores, pattern)
        return self.out((pattern @ v).permute(0, 2, 3, 1).reshape(b, n, d))  # <- value


class Looped(Heads):
    """One projection for all heads, then a Python loop over slices of it."""

    def forward(self, x: Tensor, keep: list | None = None) -> Tensor:
        q, k, v = self.w_q(x), self.w_k(x), self.w_v(x)
        mixed, kept = [], []
        for head in range(self.n_heads):
            part = slice(head * self.d_head, (head + 1) * self.d_head)
            scores = q[..., part] @ k[..., part].transpose(1, 2) / self.d_head**0.5  # <- scores scale
            pattern = scores.softmax(dim=-1)  # <- softmax
            kept.append((scores, pattern))
            mixed.append(pattern @ v[..., part])  # <- value
        if keep is not None:
            seen(keep, *(torch.stack(list(each), 1) for each in zip(*kept, strict=True)))
        return self.w_o(torch.cat(mixed, dim=-1))


class OneHead(nn.Module):
    """A single causal head with its own projections."""

    def __init__(self, d_model: int, d_head: int, size: int = 16) -> None:
        super().__init__()
        self.key = nn.Linear(d_model, d_head, bias=False)
        self.query = nn.Linear(d_model, d_head, bias=False)
        self.value = nn.Linear(d_model, d_head, bias=False)
        self.register_buffer("tril", torch.tril(torch.ones(size, size)))

    def forward(self, x: Tensor, keep: list | None = None) -> Tensor:
        n = x.shape[1]
        k, q = self.key(x), self.query(x)
        scores = q @ k.transpose(-2, -1) * k.shape[-1] ** -0.5  # <- scores scale
        scores = scores.masked_fill(self.tril[:n, :n] == 0, float("-inf"))  # <- mask
        pattern = F.softmax(scores, dim=-1)  # <- softmax
        seen(keep, scores[:, None], pattern[:, None])
        return pattern @ self.value(x)  # <- value


class ModuleListHeads(nn.Module):
    """A list of single-head modules whose outputs are concatenated and projected."""

    def __init__(self, d_model: int = 32, n_heads: int = 4) -> None:
        super().__init__()
        self.heads = nn.ModuleList([OneHead(d_model, d_model // n_heads) for _ in range(n_heads)])
        self.proj = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, keep: list | None = None) -> Tensor:
        kept: list | None = None if keep is None else []
        mixed = torch.cat([head(x, keep=kept) for head in self.heads], dim=-1)
        if keep is not None and kept is not None:
            seen(keep, *(torch.cat([one[name] for one in kept], 1) for name in ("scores", "pattern")))
        return self.proj(mixed)


class ScaledBoth(Heads):
    """Query and key are each scaled by the fourth root of the width."""

    def forward(self, x: Tensor, keep: list | None = None) -> Tensor:
        q = self.split(self.w_q(x)) * self.d_head**-0.25  # <- scale
        k = self.split(self.w_k(x)) * self.d_head**-0.25  # <- scale
        scores = q @ k.transpose(-2, -1)  # <- scores
        pattern = scores.softmax(-1)  # <- softmax
        seen(keep, scores, pattern)
        return self.w_o(self.merge(pattern @ self.split(self.w_v(x))))  # <- value


class NoScale(Heads):
    """Scores are the bare products."""

    def forward(self, x: Tensor, keep: list | None = None) -> Tensor:
        q, k, v = self.split(self.w_q(x)), self.split(self.w_k(x)), self.split(self.w_v(x))
        scores = q @ k.transpose(-2, -1)  # <- scores
        pattern = scores.softmax(-1)  # <- softmax
        seen(keep, scores, pattern)
        return self.w_o(self.merge(pattern @ v))  # <- value


class ProductAttention(nn.Module):
    """Scores, softmax and values as a module of its own, with a softmax module and a dropout module."""

    def __init__(self, temperature: float, dropout: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.softmax = nn.Softmax(dim=2)
        self.dropout = nn.Dropout(dropout)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, keep: list | None = None) -> Tensor:
        scores = torch.bmm(q, k.transpose(1, 2)) / self.temperature  # <- scores scale
        scores = scores.masked_fill(mask, -1e10)  # <- mask
        pattern = self.softmax(scores)  # <- softmax
        seen(keep, scores, pattern)
        return torch.bmm(self.dropout(pattern), v)  # <- value dropout


class NestedHeads(Heads):
    """Heads lead the folded batch: [head * batch, position, width]; residual and norm inside the module."""

    def __init__(self, d_model: int = 32, n_heads: int = 4, dropout: float = 0.25) -> None:
        super().__init__(d_model, n_heads)
        self.attention = ProductAttention(self.d_head**0.5, dropout)
        self.norm = nn.LayerNorm(d_model)

    def fold(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        return (
            x.view(b, n, self.n_heads, self.d_head).permute(2, 0, 1, 3).contiguous().view(-1, n, self.d_head)
        )

    def forward(self, x: Tensor, padding: Tensor, keep: list | None = None) -> Tensor:
        b, n, d = x.shape
        mask = padding[:, None, :].expand(b, n, n).repeat(self.n_heads, 1, 1)
        q, k, v = self.fold(self.w_q(x)), self.fold(self.w_k(x)), self.fold(self.w_v(x))
        kept: list | None = None if keep is None else []
        mixed = self.attention(q, k, v, mask, keep=kept)
        if keep is not None and kept is not None:
            unfolded = (
                kept[0][name].view(self.n_heads, b, n, n).transpose(0, 1) for name in ("scores", "pattern")
            )
            seen(keep, *unfolded)
        mixed = mixed.view(self.n_heads, b, n, self.d_head).permute(1, 2, 0, 3).reshape(b, n, d)
        return self.norm(self.w_o(mixed) + x)
