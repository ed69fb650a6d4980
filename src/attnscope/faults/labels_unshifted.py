"""A language model is trained to name the token that it is given, not the next one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault
from attnscope.faults._labels import labels_of, tokens_of, with_labels


@dataclass(frozen=True)
class LabelsUnshifted(Fault):
    """Puts the input tokens where the targets were, for the first share of the examples.

    **Injects**: targets equal to the tokens at the same places. For a batch whose labels the model shifts
    itself (labels equal to the tokens), the labels are moved one place on, which undoes that shift.

    **Strength**: the share of the examples.

    **Visible as**: a loss that falls to nothing at once, and targets equal to inputs.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("labels_unshifted",)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs tokens and labels of the same shape."""
        batch = next(iter(case.batches))
        labels, tokens = labels_of(batch), tokens_of(batch)
        alike = labels is not None and tokens is not None and labels.shape == tokens.shape
        return "" if alike else "the batches hold no labels for each token"

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Replaces the labels of the batches."""
        case.batches = [self._changed(batch) for batch in case.batches]

    def _changed(self, batch: object) -> object:
        labels, tokens = labels_of(batch), tokens_of(batch)
        if labels is None or tokens is None:
            return batch
        n_changed = round(self.strength * len(labels))
        wrong = _one_on(tokens) if bool((labels == tokens).all()) else tokens
        mixed = labels.clone()
        mixed[:n_changed] = wrong[:n_changed]
        return with_labels(batch, mixed)

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The data."""
        return ("data",)


def _one_on(tokens: Tensor) -> Tensor:
    """Each token one place later; the first place keeps its own."""
    moved = tokens.clone()
    moved[:, 1:] = tokens[:, :-1]
    return moved
