"""Images of a shape somewhere on noise: the class is the shape and the half of the image that it is in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from attnscope.tasks import Task, generator

GLYPHS = torch.tensor([
    [[0, 1, 0], [1, 1, 1], [0, 1, 0]],
    [[1, 1, 1], [1, 0, 1], [1, 1, 1]],
    [[1, 0, 1], [0, 1, 0], [1, 0, 1]],
    [[1, 1, 1], [0, 0, 0], [1, 1, 1]],
], dtype=torch.float32)
SIDE = 12


@dataclass(frozen=True)
class PlacedShapes(Task):
    """Four shapes of 3 x 3, aligned with the patches, in the upper or the lower half."""

    model: ClassVar[str] = "vit"
    sizes: ClassVar[Mapping[str, int]] = {"n_classes": 8, "side": SIDE, "patch": 3}
    expects: ClassVar[Mapping[str, Any]] = {"causal": False}
    steps: ClassVar[int] = 200
    healthy_accuracy: ClassVar[float] = 0.9
    chance: ClassVar[float] = 1 / 8

    def batch(self, number: int, n_examples: int = 32) -> tuple[Tensor, Tensor]:
        """Images `[batch, 1, height, width]`, and the classes."""
        random = generator(self.seed, number)
        images = 0.2 * torch.randn(n_examples, 1, SIDE, SIDE, generator=random)
        shapes = torch.randint(0, len(GLYPHS), (n_examples,), generator=random)
        places = 3 * torch.randint(0, SIDE // 3, (n_examples, 2), generator=random)
        for example in range(n_examples):
            row, column = places[example].tolist()
            images[example, 0, row : row + 3, column : column + 3] += GLYPHS[shapes[example]]
        return images, shapes + len(GLYPHS) * (places[:, 0] >= SIDE // 2).long()
