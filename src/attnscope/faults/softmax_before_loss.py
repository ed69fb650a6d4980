"""The loss applies its softmax to probabilities: there was one already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case, default_forward
from attnscope.faults import Fault
from attnscope.faults._labels import labels_of


@dataclass(frozen=True)
class SoftmaxBeforeLoss(Fault):
    """Gives the case a loss that passes the logits through a softmax before the cross-entropy.

    **Injects**: cross-entropy of (1 - strength) logits + strength softmax(logits).

    **Strength**: the share of the probabilities.

    **Visible as**: a loss that cannot come near zero, and gradients that are too small.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("softmax_before_loss",)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs logits of classes, one label each."""
        if case.loss is not None:
            return "the case has a loss of its own"
        batch = next(iter(case.batches))
        labels = labels_of(batch)
        output = (case.forward or default_forward)(case.model, batch)
        logits = getattr(output, "logits", output)
        alike = labels is not None and isinstance(logits, Tensor) and logits.shape[:-1] == labels.shape
        return "" if alike else "the output is not one row of logits for each label"

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Sets the loss."""
        strength = self.strength

        def loss(output: Any, batch: Any) -> Tensor:
            logits = getattr(output, "logits", output)
            labels = labels_of(batch)
            if labels is None:
                raise ValueError("the batch holds no labels")
            mixed = logits.lerp(logits.softmax(-1), strength)
            return nn.functional.cross_entropy(mixed.flatten(0, -2), labels.flatten())

        case.loss = loss

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """The loss."""
        return ("loss", "model", "data", "classifier")
