"""Language with long-range structure: a phrase from a Markov chain, a separator, the same phrase again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from attnscope.tasks import Task, generator

N_TOKENS = 16
LENGTH = 8
START = 1


@dataclass(frozen=True)
class Copying(Task):
    """`START x1 .. x8 START x1 .. x8`; the model predicts each next token.

    The first phrase can only be guessed (three successors per token); the second is certain to a model that
    attends to the right place of the first. Accuracy counts the second.
    """

    model: ClassVar[str] = "gpt"
    sizes: ClassVar[Mapping[str, int]] = {"n_tokens": N_TOKENS}
    expects: ClassVar[Mapping[str, Any]] = {"causal": True, "next_token": True}
    steps: ClassVar[int] = 250
    healthy_accuracy: ClassVar[float] = 0.95
    chance: ClassVar[float] = 1 / 3

    def batch(self, number: int, n_examples: int = 32) -> tuple[Tensor, Tensor]:
        """Tokens `[batch, position]`, and the same tokens one place on."""
        table = torch.stack([
            2 + torch.randperm(N_TOKENS - 2, generator=generator(self.seed, 2_000_000 + token))[:3]
            for token in range(N_TOKENS)
        ])
        random = generator(self.seed, number)
        phrase = torch.empty(n_examples, LENGTH, dtype=torch.long)
        phrase[:, 0] = torch.randint(2, N_TOKENS, (n_examples,), generator=random)
        for place in range(1, LENGTH):
            choice = torch.randint(0, 3, (n_examples,), generator=random)
            phrase[:, place] = table[phrase[:, place - 1], choice]
        start = torch.full((n_examples, 1), START)
        tokens = torch.cat([start, phrase, start, phrase], dim=1)
        return tokens[:, :-1], tokens[:, 1:]

    def scored(self, targets: Tensor) -> Tensor:
        """The second phrase."""
        counted = torch.zeros_like(targets, dtype=torch.bool)
        counted[:, -LENGTH:] = True
        return counted
