"""Documents of sentences: the class is a word of the one sentence that holds the key word."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from attnscope.tasks import Task, generator

N_TOKENS = 32
N_SENTENCES, N_WORDS = 5, 7
PAD, KEY = 0, 1
N_CLASSES = 4


@dataclass(frozen=True)
class KeyedDocuments(Task):
    """Each sentence holds one class word; only the one in the sentence with the key word counts.

    Sentences have 3 to 7 words, documents 2 to 5 sentences; the rest is padding (token 0). Both levels of
    attention are needed: one finds the class word, the other the sentence.
    """

    model: ClassVar[str] = "han"
    sizes: ClassVar[Mapping[str, int]] = {"n_tokens": N_TOKENS, "n_classes": N_CLASSES}
    expects: ClassVar[Mapping[str, Any]] = {"causal": False, "padding_token": PAD}
    steps: ClassVar[int] = 200
    healthy_accuracy: ClassVar[float] = 0.9
    chance: ClassVar[float] = 0.25

    def batch(self, number: int, n_examples: int = 32) -> tuple[Tensor, Tensor]:
        """Tokens `[batch, sentence, word]`, and the classes."""
        random = generator(self.seed, number)
        shape = (n_examples, N_SENTENCES, N_WORDS)
        n_sentences = torch.randint(2, N_SENTENCES + 1, (n_examples, 1), generator=random)
        n_sentences[0] = N_SENTENCES
        n_words = torch.randint(3, N_WORDS + 1, (*shape[:2], 1), generator=random)
        tokens = torch.randint(2 + N_CLASSES, N_TOKENS, shape, generator=random)
        classes = torch.randint(0, N_CLASSES, shape[:2], generator=random)
        keyed = (torch.rand(n_examples, 1, generator=random) * n_sentences).long()

        places = (torch.rand((*shape[:2], 1), generator=random) * (n_words - 1)).long()
        tokens.scatter_(2, places, 2 + classes.unsqueeze(-1))
        key_places = places.gather(1, keyed.unsqueeze(-1)) + 1
        rows = torch.arange(n_examples)
        tokens[rows, keyed[:, 0], key_places[:, 0, 0]] = KEY
        tokens[(torch.arange(N_WORDS) >= n_words)] = PAD
        tokens[torch.arange(N_SENTENCES) >= n_sentences] = PAD
        return tokens, classes[rows, keyed[:, 0]]
