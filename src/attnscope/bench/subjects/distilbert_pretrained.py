"""DistilBERT with real pre-trained weights, fine-tuned on real movie reviews: the one that takes minutes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from attnscope.bench.subjects import Subject
from attnscope.bench.subjects._encoders import transformers_unavailable
from attnscope.bench.subjects._tables import Table, split
from attnscope.bench.subjects._text import as_encoder_batch, reviews_unavailable
from attnscope.case import Case
from attnscope.errors import CaseError
from attnscope.models.distilbert import Distilbert, weights_folder
from attnscope.tasks.movie_reviews import MovieReviews

LENGTH = 32
BATCH, PROBE, TESTED = 16, 16, 32
N_HELD_OUT = 8 * TESTED + 4 * PROBE


@dataclass(frozen=True)
class DistilbertPretrained(Subject):
    """The demo's model: six layers of all-MiniLM-L6-v2 in DistilBERT's form, with a new classifier.

    **Task**: sentiment of MR (Pang and Lee 2005, from the package movie-reviews): 32 tokens of the weights' own
    30,522 word pieces, two classes of the same size.

    **Model**: `DistilBertForSequenceClassification` of transformers, 6 layers, 384 wide, 12 heads, dropout 0.1.

    **Healthy**: at least 0.6 on held-out reviews for seeds 0 to 5 (`python benchmarks/bench_subjects.py`). The
    field: a convolution network on pre-trained word vectors reaches 0.81 after many passes (Kim 2014, table 2,
    CNN-non-static: 0.815); this one is shown 1,024 reviews once.
    """

    model: ClassVar[str] = "distilbert_pretrained"
    task: ClassVar[str] = "mr"
    steps: ClassVar[int] = 64
    n_held_out: ClassVar[int] = 8
    healthy_quality: ClassVar[float] = 0.6
    chance: ClassVar[float] = 0.5

    def unavailable(self) -> str:
        """Needs transformers, the weights and the reviews."""
        try:
            weights_folder()
        except CaseError as error:
            return str(error)
        return transformers_unavailable() or reviews_unavailable()

    def case(self) -> Case:
        """The pre-trained encoder with an untrained classifier."""
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        model = Distilbert(pretrained=True, seed=self.seed).build()
        return Case(
            model,
            [as_encoder_batch(inputs, labels) for inputs, labels in _tables()[1].probes(PROBE)],
            optimizer=torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01),
            expects={"causal": False, "padding_mask": "attention_mask"},
            name=self.name,
        )

    def batch(self, number: int) -> dict[str, Tensor]:
        """Word pieces, their mask, and labels."""
        return as_encoder_batch(*_tables()[0].drawn(self.seed, number, BATCH))

    def held_out(self, number: int) -> dict[str, Tensor]:
        """As `batch`, of reviews that are never trained on."""
        return as_encoder_batch(*_tables()[1].part(number, TESTED))


@cache
def _tables() -> tuple[Table, Table]:
    """Training and testing, as the weights' own tokenizer cuts them; its padding is piece 0."""
    from transformers import AutoTokenizer

    train, held_out = MovieReviews(n_held_out=N_HELD_OUT).read()
    rows = held_out + train
    tokenizer = AutoTokenizer.from_pretrained(weights_folder())
    encoded = tokenizer(
        [text for text, _ in rows], padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
    )
    return split(encoded["input_ids"], torch.tensor([label for _, label in rows]), N_HELD_OUT)
