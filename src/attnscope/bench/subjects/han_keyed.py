"""A hierarchical attention network on generated documents: needs no package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attnscope.bench.subjects import Subject
from attnscope.bench.subjects._generated import drawn
from attnscope.case import Case
from attnscope.models.han import Han
from attnscope.tasks.keyed_documents import KeyedDocuments

BATCH, PROBE, TESTED, FIRST_PROBE = 32, 16, 64, 1000


@dataclass(frozen=True)
class HanKeyed(Subject):
    """Finds the sentence with the key word, and in it the class word.

    **Task**: `tasks/keyed_documents.py`, four classes.

    **Model**: `models/han.py`, 2 additive attentions, 16-wide words, GRUs of 2 x 12.

    **Healthy**: at least 0.9 on held-out documents for seeds 0 to 5 (`python benchmarks/bench_subjects.py`). The field:
    none, the task is ours; it can be solved without a mistake.
    """

    model: ClassVar[str] = "han"
    task: ClassVar[str] = "keyed_documents"
    steps: ClassVar[int] = 200
    healthy_quality: ClassVar[float] = 0.9
    chance: ClassVar[float] = 0.25

    def case(self) -> Case:
        """An untrained model."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = Han(**KeyedDocuments.sizes)
        return Case(
            model,
            [self._drawn(FIRST_PROBE + number, PROBE, held_out=True) for number in range(4)],
            optimizer=torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.01),
            expects=KeyedDocuments.expects,
            name=self.name,
        )

    def batch(self, number: int) -> tuple[Tensor, Tensor]:
        """Tokens `[batch, sentence, word]` and classes."""
        return self._drawn(number, BATCH, held_out=False)

    def held_out(self, number: int) -> tuple[Tensor, Tensor]:
        """As `batch`, of documents that are never trained on."""
        return self._drawn(number, TESTED, held_out=True)

    def _drawn(self, number: int, size: int, *, held_out: bool) -> tuple[Tensor, Tensor]:
        return drawn(KeyedDocuments(seed=self.seed), number, size, held_out=held_out)
