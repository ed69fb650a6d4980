"""A small language model, written by hand, whose causal mask lets every position see one token too many.

attnscope check examples/leaky_gpt.py:make_case          names the mask and its line
attnscope check examples/leaky_gpt.py:make_fixed_case    finds nothing
"""

import math

import torch
from torch import nn

from attnscope import Case


class Attention(nn.Module):
    def __init__(self, width, n_heads, diagonal):
        super().__init__()
        self.n_heads = n_heads
        self.diagonal = diagonal
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = (
            part.view(batch, length, self.n_heads, -1).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1)
        )
        scores = q @ k.transpose(-2, -1) / math.sqrt(width // self.n_heads)
        visible = torch.tril(torch.ones(length, length, dtype=torch.bool), diagonal=self.diagonal)
        scores = scores.masked_fill(~visible, -1e9)
        mixed = scores.softmax(dim=-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(x.shape))


class LanguageModel(nn.Module):
    def __init__(self, n_tokens=50, width=32, n_layers=2, diagonal=0):
        super().__init__()
        self.tokens = nn.Embedding(n_tokens, width)
        self.positions = nn.Embedding(64, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(n_layers))
        self.attentions = nn.ModuleList(Attention(width, 4, diagonal) for _ in range(n_layers))
        self.head = nn.Linear(width, n_tokens)

    def forward(self, ids):
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        for norm, attention in zip(self.norms, self.attentions, strict=True):
            x = x + attention(norm(x))
        return self.head(x)


def make_case(diagonal=1):
    torch.manual_seed(0)
    ids = torch.randint(0, 50, (8, 17))
    return Case(LanguageModel(diagonal=diagonal), [(ids[:, :-1], ids[:, 1:])], expects={"causal": True})


def make_fixed_case():
    return make_case(diagonal=0)
