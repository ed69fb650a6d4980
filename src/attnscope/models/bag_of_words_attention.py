"""The attention classifier of Lu, Mao and Nayak (2021): free keys and embeddings, one query, softmax over a bag."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attnscope.errors import CaseError

HEADS = ("FC", "TC", "TL")


class BagOfWordsAttention(nn.Module):
    """Words attend to one global query; the attended embedding is classified.

    score_w = q . k_w, pattern = softmax over the sentence's words (repeats counted), context = sum of
    pattern_w e_w, logits = head(context) (Lu et al., ICLR 2021, arXiv:2011.10036, section 3). The scores
    are not scaled and keys are no function of the embeddings: both are free tables.

    Args:
        n_words: size of the vocabulary.
        n_classes: width of the logits.
        head: `FC` (fixed linear: a normal matrix with ones on its diagonal), `TC` (trainable linear, no
            bias), `TL` (trainable: linear to 10, ReLU, linear).
        d_embedding, d_key: widths of the two tables.
        embedding_sd, query_sd: standard deviations of the start; keys start at zero.
        train_keys, train_embeddings, train_query: what learns. The paper fixes the query.
        seed: of the start. The draws are made in the order of the released code, with its repeated
            seeding, so that seed 3 reproduces the published query norms.
    """

    def __init__(
        self,
        n_words: int,
        n_classes: int,
        head: str = "FC",
        *,
        d_embedding: int = 10,
        d_key: int = 10,
        embedding_sd: float = 1e-6,
        query_sd: float = 0.3,
        train_keys: bool = True,
        train_embeddings: bool = True,
        train_query: bool = False,
        seed: int = 3,
    ) -> None:
        super().__init__()
        if head not in HEADS:
            raise CaseError(f"head must be one of {', '.join(HEADS)}, found {head!r}")
        if n_words < 1 or n_classes < 2:
            raise CaseError(f"a classifier needs words and at least two classes, found {n_words} and {n_classes}")
        self.head_kind = head
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(n_words, d_embedding)
            self.embedding.weight.data.normal_(0, embedding_sd)
            torch.randn(1, d_key)  # the released code draws the query twice
            self.query = nn.Parameter(torch.empty(1, d_key).normal_(0, query_sd)[0])
            self.head = _head(head, d_embedding, n_classes)
        self.key = nn.Embedding(n_words, d_key)
        nn.init.zeros_(self.key.weight)
        self.key.weight.requires_grad_(train_keys)
        self.embedding.weight.requires_grad_(train_embeddings)
        self.query.requires_grad_(train_query)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits `[batch, class]` of `tokens` `[batch, position]`; `mask` is True on real words."""
        scores = self.key(tokens) @ self.query
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        pattern = scores.softmax(dim=-1)
        context = (pattern.unsqueeze(-1) * self.embedding(tokens)).sum(dim=1)
        logits: Tensor = self.head(context)
        return logits


def _head(kind: str, d_embedding: int, n_classes: int) -> nn.Module:
    if kind == "TL":
        return nn.Sequential(nn.Linear(d_embedding, 10), nn.ReLU(), nn.Linear(10, n_classes))
    if kind == "TC":
        return nn.Linear(d_embedding, n_classes, bias=False)
    drawn = torch.randn(d_embedding, n_classes).fill_diagonal_(1)
    fixed = nn.Linear(d_embedding, n_classes, bias=False)
    fixed.weight.data = drawn.T.contiguous()
    return fixed.requires_grad_(False)
