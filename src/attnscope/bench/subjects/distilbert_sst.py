"""A tiny DistilBERT, from scratch, on the sentences of the Stanford Sentiment Treebank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attnscope.bench.subjects import Subject
from attnscope.bench.subjects._encoders import (
    BATCH,
    LENGTH,
    PROBE,
    STEPS,
    TESTED,
    WARMUP,
    tiny_case,
    transformers_unavailable,
)
from attnscope.bench.subjects._labelled_lines import file_of, file_unavailable, tables
from attnscope.bench.subjects._tables import Table
from attnscope.bench.subjects._text import as_encoder_batch
from attnscope.case import Case

TRAINING, TESTING = "sst/stsa.binary.train", "sst/stsa.binary.test"
N_HELD_OUT = 12 * TESTED + 4 * PROBE


@dataclass(frozen=True)
class DistilbertSst(Subject):
    """Reads one sentence of a review, word by word.

    **Task**: SST-2 (Socher et al. 2013), whole sentences, read from the folder that ATTNSCOPE_DATA names; two classes
    of nearly the same size.

    **Model**: `DistilBertForSequenceClassification` of transformers, 4 layers, 64 wide, 4 heads, dropout 0.1.

    **Healthy**: at least 0.6 on held-out sentences for seeds 0 to 5 (`python benchmarks/bench_subjects.py`). The
    field: a convolution network on words that starts from random vectors reaches 0.83 after many passes over
    sentences and phrases (Kim 2014, table 2, CNN-rand); this one is shown 5,120 sentences once.
    """

    model: ClassVar[str] = "distilbert"
    task: ClassVar[str] = "sst2"
    steps: ClassVar[int] = STEPS
    warmup: ClassVar[int] = WARMUP
    n_held_out: ClassVar[int] = 12
    healthy_quality: ClassVar[float] = 0.6
    chance: ClassVar[float] = 0.5

    def unavailable(self) -> str:
        """Needs transformers and the folder."""
        return transformers_unavailable() or file_unavailable(TRAINING, "SST-2")

    def case(self) -> Case:
        """An untrained model."""
        return tiny_case(self.name, _tables()[1], n_classes=2, seed=self.seed)

    def batch(self, number: int) -> dict[str, Tensor]:
        """Tokens, their mask, and labels."""
        return as_encoder_batch(*_tables()[0].drawn(self.seed, number, BATCH))

    def held_out(self, number: int) -> dict[str, Tensor]:
        """As `batch`, of texts that are never trained on."""
        return as_encoder_batch(*_tables()[1].part(number, TESTED))


def _tables() -> tuple[Table, Table]:
    return tables(file_of(TRAINING), file_of(TESTING), N_HELD_OUT, LENGTH)
