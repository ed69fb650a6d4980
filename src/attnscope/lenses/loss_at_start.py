"""The loss beside that of a uniform guess."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from attnscope.lenses import Lens
from attnscope.lenses._loss_calls import CLASSES, loss_calls
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class LossAtStart(Lens):
    """The loss of each batch relative to that of a uniform guess over the classes.

    **Measures**: loss / log(n_classes), where the loss is a cross-entropy; `n_classes` is read off its input.

    **Reading it**: 1 before training (0.9 to 1.2 with the usual initialisations), falling from there. Well
    above 1 before training: the logits are too large, or labels and classes do not fit. Far below 1 in an
    untrained model: the answer leaks into its input.

    **Shapes**: (batch,).

    **Cost**: one forward pass per batch.

    **Reference**: an identity for zero logits.
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("batch",)
    needs: ClassVar[tuple[str, ...]] = ("loss",)

    def measure(self, probe: Probe) -> Reading:
        """Divides each batch's loss by the logarithm of the number of classes."""
        calls = [call for call in loss_calls(probe) if call.op == CLASSES]
        sizes = {call.by_class.shape[-1] for call in calls if call.given.ndim}
        if len(sizes) != 1 or max(sizes) < 2:
            return self.not_applicable("the loss is not one cross-entropy over classes")
        n_classes = sizes.pop()
        with probe.evaluating() as model, torch.no_grad():
            losses = [float(probe.loss_of(model, batch)) for batch in probe.batches]
        return self.reading(
            [loss / math.log(n_classes) for loss in losses],
            step=probe.step,
            facts={"n_classes": n_classes, "losses": losses, "uniform": math.log(n_classes)},
        )
