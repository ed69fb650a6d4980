"""What the theory leaves open: how far the low-rank bias of (K, Q) reaches beyond one head, one query, two classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attnscope.studies import Part, at_most
from attnscope.tasks.token_margin import TokenMargin

STEPS, RATE = 3000, 0.02


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
                f"{factored:.2f} against {whole:.2f}, {n_seeds} seeds, {STEPS} steps",
            )
        )
    return part


def _ranks(setting: Setting, seed: int) -> tuple[float, float]:
    return _train(setting, seed, factored=True), _train(setting, seed, factored=False)


def _train(setting: Setting, seed: int, *, factored: bool) -> float:
    """Trains from the same small start and returns the mean effective rank of the heads' W."""
    data = TokenMargin(seed=seed, n_samples=6).draw()
    draw = torch.Generator().manual_seed(seed)
    d = data.queries.shape[1]
    tokens = torch.tensor(np.concatenate([data.optimal[:, None], data.others], axis=1))
    queries = torch.randn(len(tokens), setting.n_queries, d, generator=draw, dtype=torch.float64)
    queries = queries / queries.norm(dim=-1, keepdim=True)
    labels = torch.arange(len(tokens)) % setting.n_classes
    head = _head(tokens, labels, setting.n_classes, data.score_gap)
    start = torch.randn(2, setting.n_heads, d, d, generator=draw, dtype=torch.float64) * 0.03 / d**0.5
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


def _head(tokens: Tensor, labels: Tensor, n_classes: int, gap: float) -> Tensor:
    """A head `[class, d]` under which a sample's optimal token, and no other, speaks for its label."""
    flat = tokens.flatten(0, 1)
    wanted = torch.zeros(len(tokens), tokens.shape[1], n_classes, dtype=tokens.dtype)
    wanted[torch.arange(len(tokens)), 0, labels] = gap / 2
    solution: Tensor = torch.linalg.lstsq(flat, wanted.flatten(0, 1), driver="gelsd").solution
    return solution.T.contiguous()


def _loss(tokens: Tensor, queries: Tensor, labels: Tensor, weights: Tensor, head: Tensor) -> Tensor:
    scores = torch.einsum("bld,hde,bqe->bhql", tokens, weights, queries)
    context = torch.einsum("bhql,bld->bqd", scores.softmax(dim=-1), tokens) / len(weights)
    logits = context @ head.T
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.repeat_interleave(queries.shape[1]))


def _descend(loss: Callable[[], Tensor], factors: list[Tensor], plain_rate: float | None) -> None:
    for _ in range(STEPS):
        gradients = torch.autograd.grad(loss(), factors)
        size = torch.stack([part.norm() for part in gradients]).norm()
        rate = plain_rate if plain_rate is not None else RATE / float(size.clamp_min(1e-300))
        with torch.no_grad():
            for part, slope in zip(factors, gradients, strict=True):
                part -= rate * slope
