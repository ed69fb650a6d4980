"""Attentions assembled from a plan: any layout, product, scale, mask and softmax, and the truth by construction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .truth import Mask, P, Truth
from .zoo_scores import seen


@dataclass(frozen=True)
class Plan:
    """How one attention is built."""

    n_heads: int = 2
    d_head: int = 4
    d_input: int = 9
    batch: int = 2
    n_queries: int = 5
    n_memory: int = 0  # 0: self-attention
    layout: str = "separate"  # separate, chunks, by head, heads fastest
    product: str = "matmul"  # matmul, bmm, einsum
    scale: str = "after"  # after, divided, query, both, none
    mask: str = "none"  # none, add, masked_fill, where, computed
    causal: bool = False
    fill: float = float("-inf")
    softmax: str = "function"  # function, module, hand
    transposed: bool = False
    bias: bool = True
    residual: bool = False

    @property
    def width(self) -> int:
        return self.n_heads * self.d_head

    @property
    def n_keys(self) -> int:
        return self.n_memory or self.n_queries

    def rows(self, role: int) -> tuple[tuple[tuple[int, int], ...], ...]:
        """For query (0), key (1), value (2): the rows of each head in the parameter that holds them."""
        h, d, w = self.n_heads, self.d_head, self.width
        fused = not self.n_memory and self.layout != "separate"
        start = role * w if fused and self.layout != "by head" else 0
        if self.layout == "heads fastest":
            return tuple(tuple((start + e * h + head, start + e * h + head + 1) for e in range(d)) for head in range(h))
        if self.layout == "by head" and fused:
            return tuple((((3 * head + role) * d, (3 * head + role + 1) * d),) for head in range(h))
        return tuple(((start + head * d, start + (head + 1) * d),) for head in range(h))


class Generated(nn.Module):
    """The attention of a plan."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.fused = not plan.n_memory and plan.layout != "separate"
        if self.fused:
            self.qkv = nn.Linear(plan.d_input, 3 * plan.width, bias=plan.bias)
        else:
            self.q, self.k, self.v = (nn.Linear(plan.d_input, plan.width, bias=plan.bias) for _ in range(3))
        self.o = nn.Linear(plan.width, plan.d_input, bias=plan.bias)
        self.softmax = nn.Softmax(dim=-2 if plan.transposed else -1)

    def split(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        if self.plan.layout == "heads fastest":
            return x.view(b, n, self.plan.d_head, self.plan.n_heads).permute(0, 3, 1, 2)
        return x.view(b, n, self.plan.n_heads, self.plan.d_head).transpose(1, 2)

    def merge(self, x: Tensor) -> Tensor:
        order = (0, 2, 3, 1) if self.plan.layout == "heads fastest" else (0, 2, 1, 3)
        return x.permute(*order).flatten(2)

    def parts(self, x: Tensor, memory: Tensor) -> list[Tensor]:
        plan = self.plan
        if not self.fused:
            return [self.split(self.q(x)), self.split(self.k(memory)), self.split(self.v(memory))]
        fused = self.qkv(x)
        if plan.layout == "by head":
            whole = fused.view(*x.shape[:2], plan.n_heads, 3 * plan.d_head).transpose(1, 2)
            return list(whole.chunk(3, dim=-1))
        return [self.split(part) for part in fused.split(plan.width, dim=-1)]

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        """a b^T over the last dimension, [batch, head, row of a, row of b]."""
        if self.plan.product == "einsum":
            return torch.einsum("bhqd,bhkd->bhqk", a, b)  # <- scores
        if self.plan.product == "bmm":
            flat = torch.bmm(a.reshape(-1, *a.shape[2:]), b.reshape(-1, *b.shape[2:]).transpose(1, 2))  # <- scores
            return flat.view(*a.shape[:2], a.shape[2], b.shape[2])
        return a @ b.transpose(-2, -1)  # <- scores

    def masked(self, scores: Tensor, allowed: Tensor) -> Tensor:
        fill = self.plan.fill
        if self.plan.mask == "add":
            return scores + torch.zeros(allowed.shape).masked_fill(~allowed, fill)  # <- mask
        if self.plan.mask == "masked_fill":
            return scores.masked_fill(allowed.logical_not(), fill)  # <- mask
        if self.plan.mask == "where":
            return torch.where(allowed, scores, torch.tensor(fill))  # <- mask
        if self.plan.mask == "computed":
            return scores + (1.0 - allowed.float()) * fill  # <- mask
        return scores

    def normalised(self, scores: Tensor) -> Tensor:
        dim = -2 if self.plan.transposed else -1
        if self.plan.softmax == "module":
            return self.softmax(scores)
        if self.plan.softmax == "hand":
            weights = torch.exp(scores - scores.max(dim, keepdim=True).values)
            return weights / weights.sum(dim, keepdim=True)
        return F.softmax(scores, dim=dim)

    def forward(
        self, x: Tensor, memory: Tensor | None = None, allowed: Tensor | None = None, keep: list | None = None
    ) -> Tensor:
        plan, factor = self.plan, self.plan.d_head**-0.5
        q, k, v = self.parts(x, x if memory is None else memory)
        if plan.scale in ("query", "both"):
            q = q * (factor if plan.scale == "query" else factor**0.5)
        if plan.scale == "both":
            k = k * factor**0.5
        scores = self.dot(k, q) if plan.transposed else self.dot(q, k)
        if plan.scale in ("after", "divided"):
            scores = scores * factor if plan.scale == "after" else scores / factor**-1
        if allowed is not None:
            allowed = allowed[:, None] if allowed.dim() == 3 else allowed[None, None]
            scores = self.masked(scores, allowed.mT if plan.transposed else allowed)
        pattern = self.normalised(scores)
        if keep is not None:
            seen(keep, *((each.mT if plan.transposed else each) for each in (scores, pattern)))
        if plan.product == "einsum":
            mixed = torch.einsum("bhkq,bhkd->bhqd" if plan.transposed else "bhqk,bhkd->bhqd", pattern, v)
        else:
            mixed = (pattern.transpose(-2, -1) if plan.transposed else pattern) @ v
        out = self.o(self.merge(mixed))
        return x + out if plan.residual else out


def batch_of(plan: Plan) -> dict[str, Any]:
    """Inputs, and the mask that the plan asks for: True is allowed."""
    batch: dict[str, Any] = {"x": torch.randn(plan.batch, plan.n_queries, plan.d_input)}
    if plan.n_memory:
        batch["memory"] = torch.randn(plan.batch, plan.n_memory, plan.d_input)
    if plan.mask != "none" and plan.causal:
        batch["allowed"] = torch.ones(plan.n_queries, plan.n_keys, dtype=torch.bool).tril()
    elif plan.mask != "none":
        allowed = torch.ones(plan.batch, 1, plan.n_keys, dtype=torch.bool)
        allowed[0, :, -1] = False
        batch["allowed"] = allowed
    return batch


def truth_of(plan: Plan) -> Truth:
    """What is true of the plan's attention, by construction."""
    fused = not plan.n_memory and plan.layout != "separate"
    known: dict[str, Any] = {"heads": {}}
    what = ("weight", "bias") if plan.bias else ("weight",)
    for number, role in enumerate(("query", "key", "value")):
        name, rows = "qkv" if fused else role[0], plan.rows(number)
        whole = tuple(sorted(cut for head in rows for cut in head))
        known[role] = tuple(P(f"{name}.{one}", 0, whole) for one in what)
        known["heads"][role] = tuple(tuple(P(f"{name}.{one}", 0, rows[at]) for one in what) for at in (0, -1))
    columns = Plan(plan.n_heads, plan.d_head, layout=plan.layout, n_memory=1).rows(0)
    known["output"] = tuple(P(f"o.{one}") for one in what)
    known["heads"]["output"] = tuple((P("o.weight", 1, columns[at]),) for at in (0, -1))
    n = plan.n_queries
    share = (n + 1) / (2 * n) if plan.causal else 1 - 1 / (plan.batch * plan.n_keys)
    how = "add" if plan.mask == "computed" else plan.mask
    return Truth(
        module="", form="dot-product", kind="cross" if plan.n_memory else "self",
        n_heads=plan.n_heads, d_head=plan.d_head, scale=1.0 if plan.scale == "none" else plan.d_head**-0.5,
        masks=() if plan.mask == "none" else (Mask(how, plan.fill, causal=plan.causal, allowed_share=share),),
        causal=plan.mask != "none" and plan.causal, softmax_dim=-2 if plan.transposed else -1,
        residual=plan.residual, norm_place="none", n_queries=n, n_keys=plan.n_keys, batch_size=plan.batch,
        marks=("scores",) if plan.mask == "none" else ("scores", "mask"), **known,
    )
