"""Videos of a shape that moves left or right over noise: the class is the shape and the direction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attnscope.tasks import Task, generator

GLYPHS = torch.tensor([
    [[0, 0, 1, 0, 0], [0, 0, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 1, 0, 0], [0, 0, 1, 0, 0]],
    [[1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, 0, 0, 0, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]],
    [[1, 0, 0, 0, 1], [0, 1, 0, 1, 0], [0, 0, 1, 0, 0], [0, 1, 0, 1, 0], [1, 0, 0, 0, 1]],
    [[1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]],
], dtype=torch.float32)
SIDE, N_FRAMES = 12, 5


@dataclass(frozen=True)
class MovingShapes(Task):
    """Four shapes of 5 x 5, moving one pixel per frame; a single frame shows the shape but no direction."""

    model: ClassVar[str] = "conv3d_attention"
    sizes: ClassVar[Mapping[str, int]] = {"n_classes": 8, "n_frames": N_FRAMES}
    steps: ClassVar[int] = 120
    healthy_accuracy: ClassVar[float] = 0.9
    chance: ClassVar[float] = 1 / 8

    def batch(self, number: int, n_examples: int = 32) -> tuple[Tensor, Tensor]:
        """Videos `[batch, 1, frame, height, width]`, and the classes."""
        random = generator(self.seed, number)
        video = 0.2 * torch.randn(n_examples, 1, N_FRAMES, SIDE, SIDE, generator=random)
        shapes = torch.randint(0, len(GLYPHS), (n_examples,), generator=random)
        rightward = torch.randint(0, 2, (n_examples,), generator=random)
        rows = torch.randint(0, SIDE - 4, (n_examples,), generator=random)
        columns = torch.randint(0, SIDE - 4 - N_FRAMES + 1, (n_examples,), generator=random)
        for example in range(n_examples):
            row = int(rows[example])
            for frame in range(N_FRAMES):
                shift = frame if rightward[example] else N_FRAMES - 1 - frame
                column = int(columns[example]) + shift
                video[example, 0, frame, row : row + 5, column : column + 5] += GLYPHS[shapes[example]]
        return video, shapes + len(GLYPHS) * rightward
