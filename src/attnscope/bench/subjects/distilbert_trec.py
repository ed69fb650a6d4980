"""A tiny DistilBERT, from scratch, on the kind of answer that a question wants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attnscope.bench.subjects import Subject
from attnscope.bench.subjects._encoders import (
    BATCH,
    PROBE,
    TESTED,
    WARMUP,
    tiny_case,
    transformers_unavailable,
)
from attnscope.bench.subjects._labelled_lines import file_of, file_unavailable, tables
from attnscope.bench.subjects._tables import Table
from attnscope.bench.subjects._text import as_encoder_batch
from attnscope.case import Case

TRAINING, TESTING = "trec/TREC.train.all", "trec/TREC.test.all"
STEPS, LENGTH = 260, 12
N_HELD_OUT = 6 * TESTED + 4 * PROBE


@dataclass(frozen=True)
class DistilbertTrec(Subject):
    """Tells what kind of answer a question wants.

    **Task**: the six coarse classes of TREC (Li and Roth 2002), read from the folder that ATTNSCOPE_DATA names; the
    largest class is 0.23 of the training questions and 0.28 of the test ones.

    **Model**: `DistilBertForSequenceClassification` of transformers, 4 layers, 64 wide, 4 heads, dropout 0.1.

    **Healthy**: at least 0.7 on held-out questions for seeds 0 to 5 (`python benchmarks/bench_subjects.py`). The
    field: a convolution network on words that starts from random vectors reaches 0.91 after many passes (Kim 2014,
    table 2, CNN-rand); this one makes one and a half.
    """

    model: ClassVar[str] = "distilbert"
    task: ClassVar[str] = "trec"
    steps: ClassVar[int] = STEPS
    warmup: ClassVar[int] = WARMUP
    n_held_out: ClassVar[int] = 6
    healthy_quality: ClassVar[float] = 0.7
    chance: ClassVar[float] = 0.28

    def unavailable(self) -> str:
        """Needs transformers and the folder."""
        return transformers_unavailable() or file_unavailable(TRAINING, "TREC")

    def case(self) -> Case:
        """An untrained model."""
        return tiny_case(self.name, _tables()[1], n_classes=6, seed=self.seed)

    def batch(self, number: int) -> dict[str, Tensor]:
        """Tokens, their mask, and labels."""
        return as_encoder_batch(*_tables()[0].drawn(self.seed, number, BATCH))

    def held_out(self, number: int) -> dict[str, Tensor]:
        """As `batch`, of texts that are never trained on."""
        return as_encoder_batch(*_tables()[1].part(number, TESTED))


def _tables() -> tuple[Table, Table]:
    return tables(file_of(TRAINING), file_of(TESTING), N_HELD_OUT, LENGTH)
