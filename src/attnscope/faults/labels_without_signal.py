"""The labels were shuffled apart from their inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault
from attnscope.faults._labels import labels_of, with_labels


@dataclass(frozen=True)
class LabelsWithoutSignal(Fault):
    """Exchanges labels among the examples of each batch of the case.

    **Injects**: a permutation of the labels, another for each batch, drawn from `seed`.

    **Strength**: the share of the examples that are drawn into it.

    **Visible as**: a loss that stays at that of a guess, and that no other order of the labels changes.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("labels_without_signal",)
    visibility: ClassVar[str] = "C"

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs labels in the batch."""
        return "" if labels_of(next(iter(case.batches))) is not None else "the batches hold no labels"

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Permutes the labels of the batches, in place of the case's own."""
        random = torch.Generator().manual_seed(self.seed)
        changed = []
        for batch in case.batches:
            labels = labels_of(batch)
            if labels is None:
                changed.append(batch)
                continue
            drawn = torch.randperm(len(labels), generator=random)[: round(self.strength * len(labels))]
            shuffled = labels.clone()
            shuffled[drawn] = labels[drawn[torch.randperm(len(drawn), generator=random)]]
            changed.append(with_labels(batch, shuffled))
        case.batches = changed

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The data."""
        return ("data",)
