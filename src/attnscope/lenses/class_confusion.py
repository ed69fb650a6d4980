"""Which class the model predicts for which label, and whether both modes read the classes in one order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attnscope.lenses import STANDARD, Lens
from attnscope.lenses._assignment import assigned
from attnscope.lenses._batch import tensors
from attnscope.lenses._labels import labels_path
from attnscope.lenses._loss_calls import CLASSES, loss_calls
from attnscope.probe import Probe
from attnscope.readings import Reading

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ClassConfusion(Lens):
    """How often each class is predicted for each label, in eval mode.

    **Measures**: counts by label (row) and predicted class (column), where the loss is one cross-entropy with a class
    per example; labels that the loss ignores are left out. The facts hold the counts of every other example (`even`
    and `odd`), so that what is chosen on one half can be tested on the other, and the order of the classes that fits
    the labels of each half best (`orders`: label -> class). Where another order of the classes fits
    the labels better, the scores are taken in train mode too, and `modes` tells the order that brings the scores of
    eval mode nearest to those of train mode on the even examples (`order`: class in train mode -> class in eval mode),
    on how many of the odd ones that order is nearer than none (`nearer` of `tested`), and how much of the squared
    distance between the modes it leaves (`left`).

    **Reading it**: a heavy diagonal in a trained model. Heavy entries elsewhere, one in each row: the classes are read
    in another order than they were trained in. Dropout moves scores between the modes, and does not exchange them.

    **Shapes**: (label, class).

    **Cost**: one forward pass per batch, up to `examples`; as many again where another order fits better.

    **Reference**: Kohavi and Provost, 1998, Machine Learning 30 (the confusion matrix); Kuhn, 1955 (the assignment).
    """

    examples: int = 128
    classes: int = 64

    unit: ClassVar[str] = "examples"
    dims: ClassVar[tuple[str, ...]] = ("label", "class")
    needs: ClassVar[tuple[str, ...]] = ("loss",)
    effort: ClassVar[str] = STANDARD

    def measure(self, probe: Probe) -> Reading:
        """Counts predictions, and compares the modes where that is called for."""
        parts: list[tuple[Tensor, Tensor]] = []
        for batch in probe.batches:
            answers = _answers(probe, batch)
            if answers is None or not 2 <= answers[0].shape[1] <= self.classes:
                return self.not_applicable(f"the loss is not one cross-entropy over 2 to {self.classes} classes")
            parts.append(answers)
            if sum(len(labels) for _, labels in parts) >= self.examples:
                break
        scores, labels = _joined(parts)
        if scores is None or not np.isfinite(scores).all():
            return self.not_applicable("the scores are not finite, or not over the same classes in every batch")
        counted = (labels >= 0) & (labels < scores.shape[1])
        halves = [_counts(labels[counted][first::2], scores[counted][first::2]) for first in (0, 1)]
        facts: dict[str, Any] = {
            "even": halves[0].tolist(),
            "odd": halves[1].tolist(),
            "orders": [assigned(-half) for half in halves],
            "modes": None,
        }
        counts = halves[0] + halves[1]
        if assigned(-counts) != list(range(len(counts))):
            facts["modes"] = _between_modes(probe, scores, len(parts))
        names = tuple(range(len(counts)))
        return self.reading(counts, coords={"label": names, "class": names}, step=probe.step, facts=facts)


def _answers(probe: Probe, batch: Any, *, train: bool = False) -> tuple[Tensor, Tensor] | None:
    """Scores [example, class] as the loss gets them, and labels [example]."""
    path = labels_path(batch)
    labels = None if path is None else tensors(batch)[path]
    if labels is None or labels.ndim != 1 or labels.is_floating_point():
        return None
    calls = [call for call in loss_calls(probe, batch, train=train) if call.op == CLASSES]
    if len(calls) != 1 or calls[0].given.ndim != 2 or len(calls[0].given) != len(labels):
        return None
    return calls[0].given.double().cpu(), labels.long().cpu()


def _joined(parts: list[tuple[Tensor, Tensor]]) -> tuple[Scores | None, npt.NDArray[np.int64]]:
    labels = torch.cat([labels for _, labels in parts]).numpy()
    if len({scores.shape[1] for scores, _ in parts}) != 1:
        return None, labels
    return torch.cat([scores for scores, _ in parts]).numpy(), labels


def _counts(labels: npt.NDArray[np.int64], scores: Scores) -> Scores:
    counts = np.zeros((scores.shape[1], scores.shape[1]))
    np.add.at(counts, (labels, scores.argmax(1)), 1)
    return counts


def _between_modes(probe: Probe, evaluated: Scores, n_batches: int) -> dict[str, Any] | None:
    """The order of classes that brings eval mode nearest to train mode; None when train mode cannot be run."""
    try:
        parts = [_answers(probe, batch, train=True) for batch in probe.batches[:n_batches]]
    except Exception:  # a batch of one example in batch normalisation, say
        return None
    trained, _ = _joined([part for part in parts if part is not None])
    if trained is None or trained.shape != evaluated.shape or not np.isfinite(trained).all():
        return None
    # A softmax does not see what is added to all classes.
    trained, evaluated = (scores - scores.mean(1, keepdims=True) for scores in (trained, evaluated))
    even, odd = (np.square(trained[first::2, :, None] - evaluated[first::2, None, :]) for first in (0, 1))
    order = assigned(even.sum(0))
    classes = range(len(order))
    moved, unmoved = odd[:, classes, order].sum(1), odd[:, classes, classes].sum(1)
    distance = float(unmoved.sum())
    return {
        "order": order,
        "nearer": int((moved < unmoved).sum()),
        "tested": len(odd),
        "left": float(moved.sum()) / distance if distance > 0 else 1.0,
    }
