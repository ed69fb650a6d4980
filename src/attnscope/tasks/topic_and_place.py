"""Texts of unequal length: the class is the text's topic and whether a marker word stands early or late."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from attnscope.tasks import Task, generator

N_TOKENS = 32
LENGTH = 16
PAD, FIRST, MARKER = 0, 1, 2
EARLY = 4


@dataclass(frozen=True)
class TopicAndPlace(Task):
    """Topic: nine words of ten are from one of two lists. Place: the marker is among words 1 to 4, or later.

    Texts have 6 to 16 tokens; the rest is padding, so a model that attends to padding is disturbed, and one
    without positions cannot tell the place.
    """

    model: ClassVar[str] = "encoder"
    sizes: ClassVar[Mapping[str, int]] = {"n_tokens": N_TOKENS, "n_classes": 4}
    expects: ClassVar[Mapping[str, Any]] = {"causal": False, "padding_token": PAD, "order_matters": True}
    steps: ClassVar[int] = 300
    healthy_accuracy: ClassVar[float] = 0.9
    chance: ClassVar[float] = 0.25

    def batch(self, number: int, n_examples: int = 32) -> tuple[dict[str, Tensor], Tensor]:
        """`input_ids` and `attention_mask` `[batch, position]`, and the classes."""
        random = generator(self.seed, number)
        lengths = torch.randint(6, LENGTH + 1, (n_examples, 1), generator=random)
        lengths[0] = LENGTH
        topics = torch.randint(0, 2, (n_examples, 1), generator=random)
        own = torch.rand(n_examples, LENGTH, generator=random) < 0.9
        words = torch.randint(3, 17, (n_examples, LENGTH), generator=random)
        tokens = torch.where(own == topics.bool(), words + 14, words)
        late = torch.randint(0, 2, (n_examples, 1), generator=random)
        share = torch.rand(n_examples, 1, generator=random)
        early_place = 1 + (share * EARLY).long()
        late_place = 1 + EARLY + (share * (lengths - 1 - EARLY)).long()
        tokens.scatter_(1, torch.where(late.bool(), late_place, early_place), MARKER)
        tokens[:, 0] = FIRST
        tokens[torch.arange(LENGTH) >= lengths] = PAD
        inputs = {"input_ids": tokens, "attention_mask": (tokens != PAD).long()}
        return inputs, (2 * late + topics)[:, 0]
