"""Hand-written attentions: masks, normalisers and dropouts, some as only a mistake would have them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .zoo_scores import Heads, seen


class Masked(Heads):
    """The part that all of these share: queries, keys and values, split into heads."""

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.split(self.w_q(x)), self.split(self.w_k(x)), self.split(self.w_v(x))


class WeakMask(Masked):
    """Multiplies scores by the mask before the softmax: a forbidden score becomes 0, not minus infinity."""

    def forward(self, x: Tensor, mask: Tensor, keep: list | None = None) -> Tensor:
        q, k, v = self.parts(x)
        scores = q @ k.transpose(-2, -1) * self.d_head**-0.5  # <- scores scale
        scores = scores * mask[:, None, None, :]  # <- mask
        pattern = scores.softmax(-1)  # <- softmax
        seen(keep, scores, pattern)
        return self.w_o(self.merge(pattern @ v))  # <- value


class MaskAfter(Masked):
    """Multiplies the pattern by the mask after the softmax: rows no longer sum to one."""

    def forward(self, x: Tensor, mask: Tensor, keep: list | None = None) -> Tensor:
        q, k, v = self.parts(x)
        scores = q @ k.transpose(-2, -1) * self.d_head**-0.5  # <- scores scale
        pattern = scores.softmax(-1)  # <- softmax
        pattern = pattern * mask[:, None, None, :]  # <- mask
        seen(keep, scores, pattern)
        return self.w_o(self.merge(pattern @ v))  # <- value


class FillAfter(Masked):
    """Fills the pattern with zeros after the softmax."""

    def forward(self, x: Tensor, keep: list | None = None) -> Tensor:
        q, k, v = self.parts(x)
        scores = q @ k.transpose(-2, -1) * self.d_head**-0.5  # <- scores scale
        pattern = scores.softmax(-1)  # <- softmax
        future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        pattern = pattern.masked_fill(future, 0.0)  # <- mask
        seen(keep, scores, pattern)
        return self.w_o(self.merge(pattern @ v))  # <- value


class TwoMasks(Masked):
    """A causal mask added, and padded keys filled in place."""

    def forward(self, x: Tensor, mask: Tensor, keep: list | None = None) -> Tensor:
        q, k, v = self.parts(x)
        n = x.shape[1]
        scores = q @ k.transpose(-2, -1) * self.d_head**-0.5  # <- scores scale
        scores = scores + torch.full((n, n), float("-inf")).triu(1)  # <- mask
        scores.masked_fill_(~mask[:, None, None, :], -1e4)
        pattern = F.softmax(scores, dim=-1)  # <- softmax
        seen(keep, scores, pattern)
        return self.w_o(self.merge(pattern @ v))  # <- value


class ComputedMask(Masked):
    """(1 - mask) * -10000, added."""

    def forward(self, x: Tensor, mask: Tensor, keep: list | None = None) -> Tensor:
        q, k, v = self.parts(x)
        scores = torch.matmul(q, k.transpose(-2, -1)).div_(self.d_head**0.5)  # <- scores scale
        scores = scores + (1.0 - mask[:, None, None, :].float()) * -10000.0  # <- mask
        pattern = scores.softmax(-1)  # <- softmax
        seen(keep, scores, pattern)
        return self.w_o(self.merge(pattern @ v))  # <- value


class IndexedMask(Masked):
    """Forbidden scores are overwritten through an index."""

    def forward(self, x: Tensor, mask: Tensor, keep: list | None = None) -> Tensor:
        q, k, v = self.parts(x)
        scores = q @ k.transpose(-2, -1) * self.d_head**-0.5  # <- scores scale
        scores[~mask[:, None, None, :].expand_as(scores)] = float("-inf")  # <- mask
        pattern = scores.softmax(-1)  # <- softmax
        seen(keep, scores, pattern)
        return self.w_o(self.merge(pattern @ v))  # <- value


class HandSoftmax(Masked):
    """exp, sum, divide."""

    def forward(self, x: Tensor, mask: Tensor, keep: list | None = None) -> Tensor:
        q, k, v = self.parts(x)
        scores = q @ k.transpose(-2, -1) * self.d_head**-0.5  # <- scores scale
        scores = scores.masked_fill(~mask[:, None, None, :], -1e9)  # <- mask
        weights = torch.exp(scores - scores.amax(dim=-1, keepdim=True))  # <- softmax
        pattern = weights / weights.sum(dim=-1, keepdim=True)  # <- softmax
        seen(keep, scores, pattern)
        return self.w_o(self.merge(pattern @ v))  # <- value


class TransposedScores(Masked):
    """Scores are [batch, head, key, query]; the softmax runs over dimension -2, which is the keys."""

    def forward(self, x: Tensor, memory: Tensor, keep: list | None = None) -> Tensor:
        q, k, v = self.split(self.w_q(x)), self.split(self.w_k(memory)), self.split(self.w_v(memory))
        scores = k @ q.transpose(-2, -1) * self.d_head**-0.5  # <- scores scale
        pattern = scores.softmax(dim=-2)  # <- softmax
        seen(keep, scores.mT, pattern.mT)
        return self.w_o(self.merge(pattern.transpose(-2, -1) @ v))  # <- value


class WrongAxis(Masked):
    """The softmax runs over a dimension that is given: -2 is the queries, 1 the heads, 0 the batch."""

    def __init__(self, dim: int, d_model: int = 32, n_heads: int = 4) -> None:
        super().__init__(d_model, n_heads)
        self.dim = dim

    def forward(self, x: Tensor, keep: list | None = None) -> Tensor:
        q, k, v = self.parts(x)
        scores = q @ k.transpose(-2, -1) * self.d_head**-0.5  # <- scores scale
        pattern = scores.softmax(dim=self.dim)  # <- softmax
        seen(keep, scores, pattern)
        return self.w_o(self.merge(pattern @ v))  # <- value


class SoftmaxTwice(Masked):
    """The pattern goes through a second softmax."""

    def forward(self, x: Tensor, keep: list | None = None) -> Tensor:
        q, k, v = self.parts(x)
        scores = q @ k.transpose(-2, -1) * self.d_head**-0.5  # <- scores scale
        pattern = scores.softmax(-1).softmax(-1)  # <- softmax
        seen(keep, scores, pattern)
        return self.w_o(self.merge(pattern @ v))  # <- value


class SigmoidWeights(Masked):
    """Each weight is the sigmoid of its own score."""

    def forward(self, x: Tensor, keep: list | None = None) -> Tensor:
        q, k, v = self.parts(x)
        scores = q @ k.transpose(-2, -1) * self.d_head**-0.5  # <- scores scale
        pattern = scores.sigmoid()  # <- softmax
        seen(keep, scores, pattern)
        return self.w_o(self.merge(pattern @ v))  # <- value


class DropoutBefore(Masked):
    """Dropout on the scores, before the softmax."""

    def forward(self, x: Tensor, keep: list | None = None) -> Tensor:
        q, k, v = self.parts(x)
        scores = q @ k.transpose(-2, -1) * self.d_head**-0.5  # <- scores scale
        scores = F.dropout(scores, 0.15, training=self.training)  # <- dropout
        pattern = scores.softmax(-1)  # <- softmax
        seen(keep, scores, pattern)
        return self.w_o(self.merge(pattern @ v))  # <- value


class Kernel(Masked):
    """Calls the fused kernel itself, with a mask of the given kind."""

    def __init__(self, mask: str = "none", scale: float | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        self.mask, self.scale, self.dropout = mask, scale, dropout

    def forward(self, x: Tensor, keep: list | None = None) -> Tensor:
        q, k, v = self.parts(x)
        n = x.shape[1]
        causal = torch.ones(n, n, dtype=torch.bool).tril()
        mask = {
            "bool": causal,
            "float": torch.zeros(n, n).masked_fill(~causal, float("-inf")),
        }.get(self.mask)
        rate = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(  # <- scores value softmax
            q, k, v, attn_mask=mask, dropout_p=rate, is_causal=self.mask == "causal", scale=self.scale
        )
        if keep is not None:
            scale = self.d_head**-0.5 if self.scale is None else self.scale
            scores = q @ k.mT * scale
            if self.mask != "none":
                scores = scores.masked_fill(~causal, float("-inf"))
            seen(keep, scores, scores.softmax(-1))
        return self.w_o(self.merge(mixed))


class Classify(nn.Module):
    """An attention followed by a classifier that ends in a softmax of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 32)
        self.attention = SoftmaxTwice()
        self.head = nn.Linear(32, 3)

    def forward(self, tokens: Tensor, keep: list | None = None) -> Tensor:
        return self.head(self.attention(self.embed(tokens), keep=keep).mean(1)).softmax(-1)
