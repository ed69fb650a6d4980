"""A tiny DistilBERT, from scratch, on real movie reviews of one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from attnscope.bench.subjects import Subject
from attnscope.bench.subjects._encoders import (
    BATCH,
    LENGTH,
    N_TOKENS,
    PROBE,
    STEPS,
    TESTED,
    WARMUP,
    tiny_case,
    transformers_unavailable,
)
from attnscope.bench.subjects._tables import Table, split
from attnscope.bench.subjects._text import (
    as_encoder_batch,
    reviews_unavailable,
    sequences,
    vocabulary_of,
    words_of,
)
from attnscope.case import Case
from attnscope.tasks.movie_reviews import MovieReviews

N_HELD_OUT = 12 * TESTED + 4 * PROBE


@dataclass(frozen=True)
class DistilbertReviews(Subject):
    """Reads a review of one sentence, word by word.

    **Task**: sentiment of MR (Pang and Lee 2005, from the package movie-reviews): 20 tokens of 2000 words, two
    classes of the same size.

    **Model**: `DistilBertForSequenceClassification` of transformers, 4 layers, 64 wide, 4 heads, dropout 0.1.

    **Healthy**: at least 0.6 on held-out reviews for seeds 0 to 5 (`python benchmarks/bench_subjects.py`). The field:
    a convolution network on words that starts from random vectors reaches 0.76 after many passes (Kim 2014, table 2,
    CNN-rand); this one is shown 5,120 reviews once.
    """

    model: ClassVar[str] = "distilbert"
    task: ClassVar[str] = "mr"
    steps: ClassVar[int] = STEPS
    warmup: ClassVar[int] = WARMUP
    n_held_out: ClassVar[int] = 12
    healthy_quality: ClassVar[float] = 0.6
    chance: ClassVar[float] = 0.5

    def unavailable(self) -> str:
        """Needs transformers and the reviews."""
        return transformers_unavailable() or reviews_unavailable()

    def case(self) -> Case:
        """An untrained model."""
        return tiny_case(self.name, _tables()[1], n_classes=2, seed=self.seed)

    def batch(self, number: int) -> dict[str, Tensor]:
        """Tokens, their mask, and labels."""
        return as_encoder_batch(*_tables()[0].drawn(self.seed, number, BATCH))

    def held_out(self, number: int) -> dict[str, Tensor]:
        """As `batch`, of reviews that are never trained on."""
        return as_encoder_batch(*_tables()[1].part(number, TESTED))


@cache
def _tables() -> tuple[Table, Table]:
    """Training and testing; the words are those of the training reviews."""
    train, held_out = MovieReviews(n_held_out=N_HELD_OUT).read()
    texts = [words_of(text) for text, _ in held_out + train]
    vocabulary = vocabulary_of(texts[N_HELD_OUT:], N_TOKENS)
    labels = torch.tensor([label for _, label in held_out + train])
    return split(sequences(texts, vocabulary, LENGTH), labels, N_HELD_OUT)
