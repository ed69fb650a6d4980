"""Attentions as people write them when nobody looks: in place, reused, wrapped, gated, over graphs."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .zoo_layouts import Plain
from .zoo_scores import Heads, seen


class InPlace(Heads):
    """Scale, mask and softmax all overwrite the scores."""

    def forward(self, x: Tensor, mask: Tensor, keep: list | None = None) -> Tensor:
        q, k, v = self.split(self.w_q(x)), self.split(self.w_k(x)), self.split(self.w_v(x))
        scores = torch.matmul(q, k.transpose(-2, -1))  # <- scores
        scores /= math.sqrt(self.d_head)  # <- scale
        scores += mask  # <- mask
        if keep is not None:
            seen(keep, scores.clone(), scores.softmax(-1))
        torch.softmax(scores, dim=-1, out=scores)  # <- softmax
        return self.w_o(self.merge(scores @ v))  # <- value


class WhereNumber(Heads):
    """where with a plain number for what is forbidden."""

    def forward(self, x: Tensor, mask: Tensor, keep: list | None = None) -> Tensor:
        q, k, v = self.split(self.w_q(x)), self.split(self.w_k(x)), self.split(self.w_v(x))
        scores = q @ k.transpose(-2, -1) * self.d_head**-0.5  # <- scores scale
        scores = torch.where(mask[:, None, None, :], scores, float("-inf"))  # <- mask
        pattern = scores.softmax(-1)  # <- softmax
        seen(keep, scores, pattern)
        return self.w_o(self.merge(pattern @ v))  # <- value


class LogMask(Heads):
    """The logarithm of a mask of zeros and ones is added."""

    def forward(self, x: Tensor, mask: Tensor, keep: list | None = None) -> Tensor:
        q, k, v = self.split(self.w_q(x)), self.split(self.w_k(x)), self.split(self.w_v(x))
        scores = q @ k.transpose(-2, -1) * self.d_head**-0.5  # <- scores scale
        scores = scores + mask[:, None, None, :].float().log()  # <- mask
        pattern = scores.softmax(-1)  # <- softmax
        seen(keep, scores, pattern)
        return self.w_o(self.merge(pattern @ v))  # <- value


class LogSoftmax(Heads):
    """The exponential of a logarithmic softmax."""

    def forward(self, x: Tensor, keep: list | None = None) -> Tensor:
        q, k, v = self.split(self.w_q(x)), self.split(self.w_k(x)), self.split(self.w_v(x))
        scores = q @ k.transpose(-2, -1) * self.d_head**-0.5  # <- scores scale
        pattern = F.log_softmax(scores, dim=-1).exp()  # <- softmax
        seen(keep, scores, pattern)
        return self.w_o(self.merge(pattern @ v))  # <- value


class Shaw(Heads):
    """Relative position vectors are multiplied with the queries and added to the scores."""

    def __init__(self) -> None:
        super().__init__()
        self.relative = nn.Embedding(13, self.d_head)

    def forward(self, x: Tensor, keep: list | None = None) -> Tensor:
        q, k, v = self.split(self.w_q(x)), self.split(self.w_k(x)), self.split(self.w_v(x))
        n = x.shape[1]
        place = torch.arange(n)[None, :] - torch.arange(n)[:, None] + n - 1
        scores = q @ k.transpose(-2, -1)  # <- scores
        scores = scores + torch.einsum("bhqd,qkd->bhqk", q, self.relative(place))
        scores = scores / math.sqrt(self.d_head)  # <- scale
        pattern = scores.softmax(-1)  # <- softmax
        seen(keep, scores, pattern)
        return self.w_o(self.merge(pattern @ v))  # <- value


class GatedOutput(Heads):
    """A sigmoid gate on what leaves the heads, before the output projection."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(32, 32)

    def forward(self, x: Tensor, keep: list | None = None) -> Tensor:
        q, k, v = self.split(self.w_q(x)), self.split(self.w_k(x)), self.split(self.w_v(x))
        scores = q @ k.transpose(-2, -1) * self.d_head**-0.5  # <- scores scale
        pattern = scores.softmax(-1)  # <- softmax
        seen(keep, scores, pattern)
        mixed = self.merge(pattern @ v)  # <- value
        return self.w_o(mixed * torch.sigmoid(self.gate(x)))


class HeadGates(Heads):
    """Every head has a gain of its own, as pruning methods add it."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor([1.0, 0.5, 2.0, 1.5]))

    def forward(self, x: Tensor, keep: list | None = None) -> Tensor:
        q, k, v = self.split(self.w_q(x)), self.split(self.w_k(x)), self.split(self.w_v(x))
        scores = q @ k.transpose(-2, -1) * self.d_head**-0.5  # <- scores scale
        pattern = scores.softmax(-1)  # <- softmax
        seen(keep, scores, pattern)
        mixed = (pattern @ v) * self.gain[:, None, None]  # <- value
        return self.w_o(self.merge(mixed))


class HandLora(Heads):
    """Low-rank additions to query and value, written by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.a_q, self.b_q = nn.Parameter(torch.randn(32, 2) * 0.2), nn.Parameter(torch.randn(2, 32) * 0.2)
        self.a_v, self.b_v = nn.Parameter(torch.randn(32, 2) * 0.2), nn.Parameter(torch.randn(2, 32) * 0.2)

    def forward(self, x: Tensor, keep: list | None = None) -> Tensor:
        q = self.split(self.w_q(x) + 0.5 * (x @ self.a_q) @ self.b_q)
        v = self.split(self.w_v(x) + 0.5 * (x @ self.a_v) @ self.b_v)
        scores = q @ self.split(self.w_k(x)).transpose(-2, -1) * self.d_head**-0.5  # <- scores scale
        pattern = scores.softmax(-1)  # <- softmax
        seen(keep, scores, pattern)
        return self.w_o(self.merge(pattern @ v))  # <- value


class Repeated(nn.Module):
    """One layer, used three times."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.norm = Plain(), nn.LayerNorm(32)

    def forward(self, x: Tensor, keep: list | None = None) -> Tensor:
        for _ in range(3):
            x = x + self.attention(self.norm(x), keep=keep)
        return x


class Checkpointed(nn.Module):
    """Gradient checkpointing around the attention."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Plain()

    def forward(self, x: Tensor, keep: list | None = None) -> Tensor:
        if keep is not None:
            return x + self.attention(x, keep=keep)
        return x + checkpoint(self.attention, x, use_reentrant=False)


class GraphAttention(nn.Module):
    """Dense graph attention: leaky ReLU of a sum of two scores, neighbours by an adjacency matrix."""

    def __init__(self, d_in: int = 10, n_heads: int = 3, d_head: int = 4) -> None:
        super().__init__()
        self.n_heads, self.d_head = n_heads, d_head
        self.project = nn.Linear(d_in, n_heads * d_head, bias=False)
        self.source = nn.Parameter(torch.randn(n_heads, d_head) * 0.4)
        self.target = nn.Parameter(torch.randn(n_heads, d_head) * 0.4)

    def forward(self, nodes: Tensor, adjacency: Tensor, keep: list | None = None) -> Tensor:
        n = nodes.shape[0]
        hidden = self.project(nodes).view(n, self.n_heads, self.d_head)
        scores = (hidden * self.target).sum(-1).T[:, :, None] + (hidden * self.source).sum(-1).T[:, None, :]
        scores = F.leaky_relu(scores, 0.2)
        scores = scores.masked_fill(adjacency[None] == 0, -1e9)  # <- mask
        pattern = torch.softmax(scores, dim=-1)  # <- softmax
        seen(keep, scores[None], pattern[None])
        return torch.bmm(pattern, hidden.transpose(0, 1)).transpose(0, 1).reshape(n, -1)  # <- value


class _Weighed(torch.autograd.Function):
    """softmax(q k^T s) v with a backward pass of its own, as hand-made kernels have it."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        pattern = torch.softmax(q @ k.transpose(-2, -1) * scale, -1)
        ctx.save_for_backward(q, k, v, pattern)
        ctx.scale = scale
        return pattern @ v

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, pattern = ctx.saved_tensors
        grad_pattern = grad @ v.transpose(-2, -1)
        grad_scores = pattern * (grad_pattern - (grad_pattern * pattern).sum(-1, keepdim=True)) * ctx.scale
        return grad_scores @ k, grad_scores.transpose(-2, -1) @ q, pattern.transpose(-2, -1) @ grad, None


class OwnFunction(Heads):
    """The attention is an autograd function."""

    def forward(self, x: Tensor, keep: list | None = None) -> Tensor:
        q, k, v = self.split(self.w_q(x)), self.split(self.w_k(x)), self.split(self.w_v(x))
        if keep is not None:
            scores = q @ k.mT * self.d_head**-0.5
            seen(keep, scores, scores.softmax(-1))
        return self.w_o(self.merge(_Weighed.apply(q, k, v, self.d_head**-0.5)))


class Autocast(Heads):
    """Products in bfloat16, softmax in float32."""

    def forward(self, x: Tensor, keep: list | None = None) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            q, k, v = self.split(self.w_q(x)), self.split(self.w_k(x)), self.split(self.w_v(x))
            scores = q @ k.transpose(-2, -1) * self.d_head**-0.5  # <- scores scale
            pattern = scores.float().softmax(-1).to(v.dtype)  # <- softmax
            seen(keep, scores, pattern)
            return self.w_o(self.merge(pattern @ v))  # <- value


class NegativeDistance(Heads):
    """Scores are negative squared distances: |q|^2 - 2 q.k + |k|^2, expanded by hand."""

    def forward(self, x: Tensor, keep: list | None = None) -> Tensor:
        q, k, v = self.split(self.w_q(x)), self.split(self.w_k(x)), self.split(self.w_v(x))
        product = q @ k.transpose(-2, -1)  # <- scores
        scores = 2.0 * product - q.square().sum(-1, keepdim=True) - k.square().sum(-1)[:, :, None, :]
        pattern = scores.softmax(-1)  # <- softmax
        seen(keep, scores, pattern)
        return self.w_o(self.merge(pattern @ v))  # <- value


class SkipAcross(nn.Module):
    """A U-shaped stack: a far skip connection is not the residual of the attention that lacks its own."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(32, 32), nn.Linear(32, 32)
        self.attention = Plain()

    def forward(self, x: Tensor, keep: list | None = None) -> Tensor:
        low = torch.relu(self.down(x))
        return x + self.up(torch.relu(self.attention(low, keep=keep)))
