"""A small GPT that learns to repeat a phrase: needs no package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from attnscope.bench.subjects import Subject
from attnscope.bench.subjects._generated import drawn
from attnscope.case import Case
from attnscope.models.gpt import Gpt
from attnscope.tasks.copying import Copying

N_LAYERS = 3
BATCH, PROBE, TESTED, FIRST_PROBE = 32, 16, 64, 1000


@dataclass(frozen=True)
class GptCopying(Subject):
    """Continues a phrase that it has seen once.

    **Task**: `tasks/copying.py`, a phrase from a Markov chain and the same phrase again; quality counts the second.
    A guess from the token before is right one time in three.

    **Model**: `models/gpt.py`, 3 layers, 32 wide, 4 heads.

    **Healthy**: at least 0.95 on held-out phrases for seeds 0 to 5 (`python benchmarks/bench_subjects.py`). The field:
    two layers are enough to copy without a mistake, by induction heads (Olsson et al. 2022).
    """

    model: ClassVar[str] = "gpt"
    task: ClassVar[str] = "copying"
    steps: ClassVar[int] = 300
    healthy_quality: ClassVar[float] = 0.95
    chance: ClassVar[float] = 1 / 3

    def case(self) -> Case:
        """An untrained model."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = Gpt(**Copying.sizes, n_layers=N_LAYERS)
        return Case(
            model,
            [self._drawn(FIRST_PROBE + number, PROBE, held_out=True) for number in range(4)],
            optimizer=torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01),
            expects=Copying.expects,
            name=self.name,
        )

    def batch(self, number: int) -> tuple[Tensor, Tensor]:
        """Tokens `[batch, position]`, and the same tokens one place on."""
        return self._drawn(number, BATCH, held_out=False)

    def held_out(self, number: int) -> tuple[Tensor, Tensor]:
        """As `batch`, of phrases that are never trained on."""
        return self._drawn(number, TESTED, held_out=True)

    def answers(self, batch: Any) -> tuple[Tensor, Tensor]:
        """The second phrase."""
        return batch[1], Copying(seed=self.seed).scored(batch[1])

    def _drawn(self, number: int, size: int, *, held_out: bool) -> tuple[Tensor, Tensor]:
        return drawn(Copying(seed=self.seed), number, size, held_out=held_out)
