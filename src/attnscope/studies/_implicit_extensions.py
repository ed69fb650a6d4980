"""What the theory leaves open: how far the low-rank bias of (K, Q) reaches beyond one head, one query, two classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attnscope.studies import Part, at_most

STEPS, RATE, D, N_SAMPLES, N_TOKENS, GAP = 2000, 0.02, 12, 8, 5, 16.0


@dataclass(frozen=True)
class Setting:
    """One departure from the theorem's setting; the defaults are the theorem's."""

    name: str
    n_heads: int = 1
    n_queries: int = 1
    n_classes: int = 2
    train_head: bool = False
    plain_rate: float | None = None  # plain gradient descent at this rate instead of normalised


SETTINGS = (
    Setting("the theorem's setting"),
    Setting("two heads", n_heads=2),
    Setting("three queries a sample", n_queries=3),
    Setting("a trained value head", train_head=True),
    Setting("four classes and cross-entropy", n_classes=4),
    Setting("eight classes and cross-entropy", n_classes=8),
    Setting("two heads, three queries, four classes", n_heads=2, n_queries=3, n_classes=4),
    Setting("plain gradient descent, rate 0.05", plain_rate=0.05),
    Setting("plain gradient descent, rate 0.5", plain_rate=0.5),
)


def extension_part(scale: str) -> Part:
    """Effective rank of W trained as (K, Q) over that of W trained whole, for each departure."""
    n_seeds = 5 if scale == "paper" else 2
    part = Part()
    for setting in SETTINGS:
        pairs = np.array([_ranks(setting, seed) for seed in range(n_seeds)])
        factored, whole = pairs.mean(0)
        part.claims.append(
            at_most(
                f"{setting.name}: effective rank of (K, Q) over that of merged W",
                "extension",
                0.9,
                float((pairs[:, 0] / pairs[:, 1]).mean()),
                f"{factored:.2f} against {whole:.2f}, {n_seeds} seeds, n {N_SAMPLES}, L {N_TOKENS}, d {D}, "
                f"{STEPS} steps",
            )
        )
    return part


def _ranks(setting: Setting, seed: int) -> tuple[float, float]:
    return _train(setting, seed, factored=True), _train(setting, seed, factored=False)


def _train(setting: Setting, seed: int, *, factored: bool) -> float:
    """Trains from the same small start and returns the mean effective rank of the heads' W."""
    draw = torch.Generator().manual_seed(seed)
    tokens, labels, head = _draw(setting, draw)
    queries = torch.randn(N_SAMPLES, setting.n_queries, D, generator=draw, dtype=torch.float64)
    start = torch.randn(2, setting.n_heads, D, D, generator=draw, dtype=torch.float64) * 0.03 / D**0.5
    if factored:
        factors = [start[0].clone().requires_grad_(), start[1].clone().requires_grad_()]
    else:
        factors = [(start[0] @ start[1].transpose(1, 2)).clone().requires_grad_()]
    trained = [*factors, head.requires_grad_()] if setting.train_head else factors

    def weights() -> Tensor:
        product: Tensor = factors[0] @ factors[1].transpose(1, 2) if factored else factors[0]
        return product

    _descend(lambda: _loss(tokens, queries, labels, weights(), head), trained, setting.plain_rate)
    values = torch.linalg.svdvals(weights().detach())
    share = values / values.sum(1, keepdim=True)
    entropy = -(share * share.clamp_min(1e-300).log()).sum(1)
    return float(entropy.exp().mean())


def _draw(setting: Setting, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, labels and a head `[class, d]` that sees a sample's optimal token (the first) and no other."""
    directions = torch.linalg.qr(torch.randn(D, D, generator=draw, dtype=torch.float64)).Q[:, : setting.n_classes]
    tokens = torch.randn(N_SAMPLES, N_TOKENS, D, generator=draw, dtype=torch.float64) / D**0.5
    tokens = tokens - tokens @ directions @ directions.T
    labels = torch.arange(N_SAMPLES) % setting.n_classes
    tokens[:, 0] += directions.T[labels]
    return tokens, labels, GAP * directions.T.contiguous()


def _loss(tokens: Tensor, queries: Tensor, labels: Tensor, weights: Tensor, head: Tensor) -> Tensor:
    """Cross-entropy, with tokens relative to the optimal one and logits relative to the label's.

    Written plainly, the gradient is a difference of nearly equal numbers and is lost to rounding at margin 36.
    """
    apart = tokens[:, 1:] - tokens[:, :1]
    scores = torch.einsum("bld,hde,bqe->bhql", apart, weights, queries)
    pattern = torch.cat([torch.zeros_like(scores[..., :1]), scores], -1).softmax(-1)[..., 1:]
    context = tokens[:, :1] + torch.einsum("bhql,bld->bqd", pattern, apart) / len(weights)
    others = torch.arange(len(head)) != labels[:, None]
    rivals = head.expand(len(tokens), *head.shape)[others].reshape(len(tokens), -1, D) - head[labels][:, None]
    return torch.nn.functional.softplus(torch.einsum("bqd,bcd->bqc", context, rivals).logsumexp(-1)).mean()


def _descend(loss: Callable[[], Tensor], factors: list[Tensor], plain_rate: float | None) -> None:
    for _ in range(STEPS):
        gradients = torch.autograd.grad(loss(), factors)
        size = torch.stack([part.norm() for part in gradients]).norm()
        rate = plain_rate if plain_rate is not None else RATE / float(size.clamp_min(1e-300))
        with torch.no_grad():
            for part, slope in zip(factors, gradients, strict=True):
                part -= rate * slope
