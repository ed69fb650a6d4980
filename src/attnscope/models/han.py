"""A hierarchical attention network: GRUs read words and sentences, additive attention weighs both.

Yang et al. 2016, Hierarchical Attention Networks for Document Classification.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AdditiveAttention(nn.Module):
    """Scores each position by tanh(W h + b) . u and returns the weighted sum of the positions."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Linear(d_model, d_model)
        self.context = nn.Parameter(torch.randn(d_model) / d_model**0.5)

    def forward(self, hidden: Tensor, real: Tensor) -> Tensor:
        """`[batch, d_model]` from `[batch, position, d_model]`; `real` is False on padding."""
        inner = torch.tanh(self.weight(hidden))
        scores = inner @ self.context
        scores = scores.masked_fill(~real, -1e9)
        pattern = torch.softmax(scores, dim=1)
        return (pattern.unsqueeze(-1) * hidden).sum(dim=1)


class Han(nn.Module):
    """Documents `[batch, sentence, word]` in, logits of the classes out. Token 0 pads.

    Args:
        n_tokens: size of the vocabulary.
        n_classes: classes.
        d_embedding: width of a word's vector.
        d_hidden: width of each direction of both GRUs.
    """

    def __init__(
        self, *, n_tokens: int = 32, n_classes: int = 4, d_embedding: int = 16, d_hidden: int = 12
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(n_tokens, d_embedding, padding_idx=0)
        self.word_gru = nn.GRU(d_embedding, d_hidden, batch_first=True, bidirectional=True)
        self.word_attention = AdditiveAttention(2 * d_hidden)
        self.sentence_gru = nn.GRU(2 * d_hidden, d_hidden, batch_first=True, bidirectional=True)
        self.sentence_attention = AdditiveAttention(2 * d_hidden)
        self.classifier = nn.Linear(2 * d_hidden, n_classes)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits `[batch, class]`."""
        batch, n_sentences, n_words = input_ids.shape
        words = input_ids.view(batch * n_sentences, n_words)
        real_words = words != 0
        real_sentences = (input_ids != 0).any(dim=-1)

        word_states, _ = self.word_gru(self.tokens(words))
        sentences = self.word_attention(word_states, real_words)
        sentences = sentences.view(batch, n_sentences, -1)
        sentences = sentences * real_sentences.unsqueeze(-1)
        sentence_states, _ = self.sentence_gru(sentences)
        document = self.sentence_attention(sentence_states, real_sentences)
        logits: Tensor = self.classifier(document)
        return logits
