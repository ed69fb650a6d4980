"""A vision transformer on real handwritten digits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attnscope.bench.subjects import Subject
from attnscope.bench.subjects._digits import N_DIGITS, SIDE, digits, digits_unavailable
from attnscope.case import Case
from attnscope.models.vit import Vit

PATCH, N_LAYERS = 2, 4
BATCH, PROBE, TESTED = 32, 32, 64
N_HELD_OUT = 6 * TESTED + 4 * PROBE


@dataclass(frozen=True)
class VitDigits(Subject):
    """Reads a digit in sixteen patches.

    **Task**: which of ten digits (scikit-learn's copy of the UCI optical recognition set, 8 x 8 pixels).

    **Model**: `models/vit.py`, 4 layers, 32 wide, 4 heads, patches of 2 x 2.

    **Healthy**: at least 0.85 on held-out digits for seeds 0 to 5 (`python benchmarks/bench_subjects.py`). The field:
    a support vector machine on the pixels reaches 0.97 (scikit-learn's example "Recognizing hand-written digits");
    transformers without pre-training stay behind on so few images.
    """

    model: ClassVar[str] = "vit"
    task: ClassVar[str] = "digits"
    steps: ClassVar[int] = 300
    n_held_out: ClassVar[int] = 6
    healthy_quality: ClassVar[float] = 0.85
    chance: ClassVar[float] = 0.1

    def unavailable(self) -> str:
        """Needs scikit-learn."""
        return digits_unavailable()

    def case(self) -> Case:
        """An untrained model."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = Vit(n_classes=N_DIGITS, side=SIDE, patch=PATCH, n_layers=N_LAYERS)
        return Case(
            model,
            digits(N_HELD_OUT)[1].probes(PROBE),
            optimizer=torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01),
            expects={"causal": False, "order_matters": True},
            name=self.name,
        )

    def batch(self, number: int) -> tuple[Tensor, Tensor]:
        """Images and digits."""
        return digits(N_HELD_OUT)[0].drawn(self.seed, number, BATCH)

    def held_out(self, number: int) -> tuple[Tensor, Tensor]:
        """As `batch`, of digits that are never trained on."""
        return digits(N_HELD_OUT)[1].part(number, TESTED)
