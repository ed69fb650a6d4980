"""Additive attention, gated pooling and other attentions with one query per example."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .zoo_scores import seen


class WordAttention(nn.Module):
    """tanh(W h + b) against a learned context vector."""

    def __init__(self, width: int, n_hidden: int, fill: float) -> None:
        super().__init__()
        self.project = nn.Linear(width, n_hidden)
        self.context = nn.Parameter(torch.randn(n_hidden) * 0.5)
        self.fill = fill

    def forward(self, hidden: Tensor, mask: Tensor, keep: list | None = None) -> Tensor:
        keys = torch.tanh(self.project(hidden))
        scores = keys @ self.context  # <- scores
        scores = scores.masked_fill(~mask, self.fill)  # <- mask
        pattern = scores.softmax(dim=1)  # <- softmax
        seen(keep, scores[:, None, None], pattern[:, None, None])
        return (pattern.unsqueeze(-1) * hidden).sum(dim=1)  # <- value


class Han(nn.Module):
    """Hierarchical attention network: words make sentences, sentences make a document."""

    def __init__(self, packed: bool = True, d_embed: int = 12, n_hidden: int = 9) -> None:
        super().__init__()
        self.packed = packed
        self.embed = nn.Embedding(40, d_embed, padding_idx=0)
        self.word_gru = nn.GRU(d_embed, n_hidden, bidirectional=True, batch_first=True)
        self.word_attention = WordAttention(2 * n_hidden, 14, -1e9)
        self.sentence_gru = nn.GRU(2 * n_hidden, n_hidden, bidirectional=True, batch_first=True)
        self.sentence_attention = WordAttention(2 * n_hidden, 10, float("-inf"))
        self.classify = nn.Linear(2 * n_hidden, 3)

    def forward(self, documents: Tensor, keep: list | None = None) -> Tensor:
        b, s, w = documents.shape
        words = documents.view(b * s, w)
        mask = words != 0
        hidden = self.embed(words)
        if self.packed:
            lengths = mask.sum(1).clamp(min=1)
            packed = pack_padded_sequence(hidden, lengths, batch_first=True, enforce_sorted=False)
            hidden, _ = pad_packed_sequence(self.word_gru(packed)[0], batch_first=True, total_length=w)
        else:
            hidden, _ = self.word_gru(hidden)
        sentences = self.word_attention(hidden, mask, keep=keep).view(b, s, -1)
        hidden, _ = self.sentence_gru(sentences)
        return self.classify(self.sentence_attention(hidden, mask.view(b, s, w).any(-1), keep=keep))


class HanLinear(nn.Module):
    """The same attention with the context vector as a bias-free linear map and a mask after the softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 12, padding_idx=0)
        self.gru = nn.GRU(12, 9, batch_first=True)
        self.project = nn.Linear(9, 11)
        self.context = nn.Linear(11, 1, bias=False)
        self.classify = nn.Linear(9, 2)

    def forward(self, tokens: Tensor, keep: list | None = None) -> Tensor:
        hidden, _ = self.gru(self.embed(tokens))
        scores = self.context(torch.tanh(self.project(hidden)))  # <- scores
        pattern = torch.softmax(scores, dim=1)  # <- softmax
        pattern = pattern * (tokens != 0).unsqueeze(-1).float()  # <- mask
        seen(keep, scores.mT[:, None], pattern.mT[:, None])
        return self.classify(torch.sum(pattern * hidden, dim=1))  # <- value


class GatedPooling(nn.Module):
    """Gated attention over one bag of instances, without a batch dimension."""

    def __init__(self, d_in: int = 20, d_model: int = 18, n_hidden: int = 11) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(d_in, d_model), nn.ReLU())
        self.V = nn.Linear(d_model, n_hidden)
        self.U = nn.Linear(d_model, n_hidden)
        self.w = nn.Linear(n_hidden, 1)
        self.classifier = nn.Linear(d_model, 2)

    def forward(self, bag: Tensor, keep: list | None = None) -> Tensor:
        hidden = self.features(bag)
        gated = torch.tanh(self.V(hidden)) * torch.sigmoid(self.U(hidden))
        scores = self.w(gated).transpose(0, 1)  # <- scores
        pattern = torch.softmax(scores, dim=1)  # <- softmax
        seen(keep, scores[None, None], pattern[None, None])
        return self.classifier(torch.mm(pattern, hidden))  # <- value


class GatedBatch(nn.Module):
    """Gated attention over padded bags."""

    def __init__(self, d_model: int = 18, n_hidden: int = 11) -> None:
        super().__init__()
        self.V = nn.Linear(d_model, n_hidden)
        self.U = nn.Linear(d_model, n_hidden)
        self.w = nn.Linear(n_hidden, 1)
        self.classifier = nn.Linear(d_model, 2)

    def forward(self, x: Tensor, mask: Tensor, keep: list | None = None) -> Tensor:
        scores = self.w(self.V(x).tanh() * self.U(x).sigmoid()).squeeze(-1)  # <- scores
        scores = scores.masked_fill(~mask, float("-inf"))  # <- mask
        pattern = scores.softmax(dim=-1)  # <- softmax
        seen(keep, scores[:, None, None], pattern[:, None, None])
        return self.classifier(torch.einsum("bn,bnd->bd", pattern, x))  # <- value


class LinearQuery(nn.Module):
    """A linear map of each position is its score."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.LSTM(10, 13, batch_first=True)
        self.score = nn.Linear(13, 1)
        self.classify = nn.Linear(13, 4)

    def forward(self, x: Tensor, keep: list | None = None) -> Tensor:
        hidden, _ = self.encode(x)
        scores = self.score(hidden).squeeze(-1)  # <- scores
        pattern = scores.softmax(dim=-1)  # <- softmax
        seen(keep, scores[:, None, None], pattern[:, None, None])
        return self.classify(torch.bmm(pattern.unsqueeze(1), hidden).squeeze(1))  # <- value


class Bahdanau(nn.Module):
    """An encoder, and a decoder that attends to it additively at each of its steps at once."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.GRU(10, 14, batch_first=True)
        self.decoder = nn.GRU(6, 12, batch_first=True)
        self.W_query = nn.Linear(12, 9, bias=False)
        self.W_key = nn.Linear(14, 9)
        self.v = nn.Linear(9, 1, bias=False)
        self.out = nn.Linear(26, 5)

    def forward(self, source: Tensor, target: Tensor, keep: list | None = None) -> Tensor:
        memory, _ = self.encoder(source)
        state, _ = self.decoder(target)
        joint = torch.tanh(self.W_query(state).unsqueeze(2) + self.W_key(memory).unsqueeze(1))
        scores = self.v(joint).squeeze(-1)  # <- scores
        pattern = scores.softmax(dim=-1)  # <- softmax
        seen(keep, scores[:, None], pattern[:, None])
        return self.out(torch.cat([state, pattern @ memory], dim=-1))  # <- value


class Luong(nn.Module):
    """Bilinear scores between a state and a memory, without heads or scale."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.GRU(10, 14, batch_first=True)
        self.decoder = nn.GRU(6, 14, batch_first=True)
        self.W = nn.Linear(14, 14, bias=False)
        self.out = nn.Linear(28, 5)

    def forward(self, source: Tensor, target: Tensor, keep: list | None = None) -> Tensor:
        memory, _ = self.encoder(source)
        state, _ = self.decoder(target)
        scores = torch.bmm(state, self.W(memory).transpose(1, 2))  # <- scores
        pattern = scores.softmax(dim=-1)  # <- softmax
        seen(keep, scores[:, None], pattern[:, None])
        mixed = torch.bmm(pattern, memory)  # <- value
        return self.out(torch.cat([state, mixed], dim=-1))
