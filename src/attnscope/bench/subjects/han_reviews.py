"""A hierarchical attention network on real IMDB reviews."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from attnscope.bench.subjects import Subject
from attnscope.bench.subjects._tables import Table, split
from attnscope.bench.subjects._text import PAD, numbered, reviews_unavailable, sentences_of, vocabulary_of
from attnscope.case import Case
from attnscope.models.han import Han
from attnscope.tasks.movie_reviews import MovieReviews

N_TOKENS, N_SENTENCES, N_WORDS = 3000, 8, 16
BATCH, PROBE, TESTED = 32, 16, 64
N_TRAINING = 8000
N_HELD_OUT = 8 * TESTED + 4 * PROBE


@dataclass(frozen=True)
class HanReviews(Subject):
    """Reads the end of a review, word by word and sentence by sentence.

    **Task**: sentiment of IMDB reviews (Maas et al. 2011, from the package movie-reviews): the last 8 sentences
    of at most 16 words, 3000 words; two classes of the same size.

    **Model**: `models/han.py`, 2 additive attentions, 16-wide words, GRUs of 2 x 12.

    **Healthy**: at least 0.7 on held-out reviews for seeds 0 to 5 (`python benchmarks/bench_subjects.py`). The field:
    a linear classifier on all words of 25,000 whole reviews reaches 0.88 (Maas et al. 2011, table 2); this one is
    shown 6,400 reviews once, cut to 128 words.
    """

    model: ClassVar[str] = "han"
    task: ClassVar[str] = "imdb"
    steps: ClassVar[int] = 200
    n_held_out: ClassVar[int] = 8
    healthy_quality: ClassVar[float] = 0.7
    chance: ClassVar[float] = 0.5

    def unavailable(self) -> str:
        """Needs the reviews."""
        return reviews_unavailable()

    def case(self) -> Case:
        """An untrained model."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = Han(n_tokens=N_TOKENS, n_classes=2)
        return Case(
            model,
            _tables()[1].probes(PROBE),
            optimizer=torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.01),
            expects={"causal": False, "padding_token": PAD},
            name=self.name,
        )

    def batch(self, number: int) -> tuple[Tensor, Tensor]:
        """Tokens `[batch, sentence, word]` and labels."""
        return _tables()[0].drawn(self.seed, number, BATCH)

    def held_out(self, number: int) -> tuple[Tensor, Tensor]:
        """As `batch`, of reviews that are never trained on."""
        return _tables()[1].part(number, TESTED)


@cache
def _tables() -> tuple[Table, Table]:
    """Training and testing; the words are those of the training reviews."""
    train, held_out = MovieReviews(source="imdb", n_held_out=N_HELD_OUT).read()
    rows = [(sentences_of(text)[-N_SENTENCES:], label) for text, label in held_out + train[:N_TRAINING]]
    vocabulary = vocabulary_of((words for sentences, _ in rows[N_HELD_OUT:] for words in sentences), N_TOKENS)
    inputs = torch.tensor([
        ([numbered(words, vocabulary, N_WORDS) for words in sentences] + [[PAD] * N_WORDS] * N_SENTENCES)[:N_SENTENCES]
        for sentences, _ in rows
    ])
    return split(inputs, torch.tensor([label for _, label in rows]), N_HELD_OUT)
