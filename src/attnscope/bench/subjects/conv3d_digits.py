"""A two-stream 3D-convolution network with cross-attention on real handwritten digits in motion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from attnscope.bench.subjects import Subject
from attnscope.bench.subjects._digits import N_DIGITS, SIDE, digits, digits_unavailable
from attnscope.case import Case
from attnscope.models.conv3d_attention import Conv3dAttention
from attnscope.tasks import generator

N_FRAMES, WIDTH, D_MODEL = 5, 12, 24
BATCH, PROBE, TESTED = 32, 16, 64
N_HELD_OUT = 7 * TESTED + 4 * PROBE
HELD_OUT_VIDEOS = 1_000_000


@dataclass(frozen=True)
class Conv3dDigits(Subject):
    """Sees a digit drift left or right over noise, 8 x 12 pixels in 5 frames.

    **Task**: which of ten digits (scikit-learn's copy of the UCI optical recognition set, 8 x 8 pixels) and which
    way it moves, a pixel a frame: twenty classes. It starts anywhere, and what leaves on one side comes in on the
    other, so a frame by itself, or frames out of order, tell the digit and nothing of the direction.

    **Model**: `models/conv3d_attention.py`: streams of frames and of frame differences, one cross-attention with
    2 heads of 12 over all places of all frames, batch normalisation, a code for time.

    **Healthy**: at least 0.85 on held-out digits for seeds 0 to 5, the direction alone at least 0.95
    (`python benchmarks/bench_subjects.py`, `tests/bench/test_motion.py`). The field: no publication uses these videos;
    a support vector machine on the still digits reaches 0.97 (scikit-learn's example "Recognizing hand-written
    digits"), which bounds what can be hoped for.
    """

    model: ClassVar[str] = "conv3d_attention"
    task: ClassVar[str] = "moving_digits"
    steps: ClassVar[int] = 200
    n_held_out: ClassVar[int] = 7
    healthy_quality: ClassVar[float] = 0.85
    chance: ClassVar[float] = 0.05

    def unavailable(self) -> str:
        """Needs scikit-learn."""
        return digits_unavailable()

    def case(self) -> Case:
        """An untrained model."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = Conv3dAttention(n_classes=2 * N_DIGITS, n_frames=N_FRAMES, d_model=D_MODEL)
        probes = digits(N_HELD_OUT)[1].probes(PROBE)
        return Case(
            model,
            [self._moving(*probe, number=2 * HELD_OUT_VIDEOS + number) for number, probe in enumerate(probes)],
            optimizer=torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.01),
            expects={"causal": False},
            name=self.name,
        )

    def batch(self, number: int) -> tuple[Tensor, Tensor]:
        """Videos `[batch, 1, frame, height, width]` and classes."""
        images, labels = digits(N_HELD_OUT)[0].drawn(self.seed, number, BATCH)
        return self._moving(images, labels, number=number)

    def held_out(self, number: int) -> tuple[Tensor, Tensor]:
        """As `batch`, of digits that are never trained on."""
        images, labels = digits(N_HELD_OUT)[1].part(number, TESTED)
        return self._moving(images, labels, number=HELD_OUT_VIDEOS + number)

    def _moving(self, images: Tensor, labels: Tensor, *, number: int) -> tuple[Tensor, Tensor]:
        """Each image at a place of its own, moving left (classes 0 to 9) or right (10 to 19)."""
        random = generator(self.seed, number)
        n_examples = len(labels)
        rightward = torch.randint(0, 2, (n_examples,), generator=random)
        columns = torch.randint(0, WIDTH, (n_examples, 1), generator=random)
        lefts = columns + (2 * rightward - 1).unsqueeze(1) * torch.arange(N_FRAMES)
        noise = 0.1 * torch.randn(n_examples, 1, N_FRAMES, SIDE, WIDTH, generator=random)

        shown = (torch.arange(WIDTH) - lefts.unsqueeze(2)) % WIDTH  # example, frame, column -> column of the canvas
        canvas = nn.functional.pad(images, (0, WIDTH - SIDE))
        frames = canvas.expand(-1, N_FRAMES, -1, -1).gather(3, shown.unsqueeze(2).expand(-1, -1, SIDE, -1))
        return noise + frames.unsqueeze(1), labels + N_DIGITS * rightward
