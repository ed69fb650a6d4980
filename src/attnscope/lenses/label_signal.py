"""Whether the labels carry anything the model could learn or has learnt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from attnscope.lenses import STANDARD, Lens
from attnscope.lenses._batch import tensors, with_tensors
from attnscope.lenses._labels import IGNORED, labels_path
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class LabelSignal(Lens):
    """How much the loss rises when the labels are shuffled.

    **Measures**: per batch, the mean over `shuffles` of loss(shuffled labels) - loss(labels), with its standard
    error; ignored labels stay in place. The facts describe the labels of all batches: `n_labels`,
    `n_distinct`, `constant`, `majority_share`, `entropy` in nats, `all_ignored`.

    **Reading it**: zero within its error for an untrained model; clearly above zero once something is learnt.
    `constant` labels carry no signal at all. A model that was trained long and stays at zero may have been
    trained on shuffled labels, or has forgotten.

    **Shapes**: (batch,).

    **Cost**: `shuffles` + 1 forward passes per batch.

    **Reference**: Zhang et al., 2017, arXiv:1611.03530 (random labels).
    """

    shuffles: int = 4

    unit: ClassVar[str] = "loss"
    dims: ClassVar[tuple[str, ...]] = ("batch",)
    needs: ClassVar[tuple[str, ...]] = ("loss",)
    effort: ClassVar[str] = STANDARD

    def measure(self, probe: Probe) -> Reading:
        """Shuffles the labels within each batch."""
        paths = [labels_path(batch) for batch in probe.batches]
        if any(path is None for path in paths):
            return self.not_applicable("the batch does not say which of its tensors holds the labels")
        held = [tensors(batch)[str(path)] for batch, path in zip(probe.batches, paths, strict=True)]
        facts = _described(held)
        if facts["constant"] or facts["all_ignored"]:
            rises = np.zeros((len(held), 1))
        else:
            rises = self._rises(probe, [str(path) for path in paths], held)
        count = rises.shape[1]
        return self.reading(
            rises.mean(1),
            stderr=rises.std(1, ddof=1) / np.sqrt(count) if count > 1 else None,
            step=probe.step,
            facts=facts,
        )

    def _rises(self, probe: Probe, paths: list[str], held: list[Tensor]) -> Any:
        generator = torch.Generator().manual_seed(probe.seed)
        rises = np.zeros((len(held), self.shuffles))
        with probe.evaluating() as model, torch.no_grad():
            for row, (batch, path, labels) in enumerate(zip(probe.batches, paths, held, strict=True)):
                before = float(probe.loss_of(model, batch))
                for column in range(self.shuffles):
                    other = with_tensors(batch, {path: _shuffled(labels, generator)})
                    rises[row, column] = float(probe.loss_of(model, other)) - before
        return rises


def _shuffled(labels: Tensor, generator: torch.Generator) -> Tensor:
    """The labels that count, in another order; whole rows where a label is a vector of numbers."""
    if labels.is_floating_point():
        return labels[torch.randperm(labels.shape[0], generator=generator).to(labels.device)]
    flat = labels.flatten().clone()
    counts = (flat != IGNORED).nonzero().flatten()
    flat[counts] = flat[counts[torch.randperm(len(counts), generator=generator).to(flat.device)]]
    return flat.reshape(labels.shape)


def _described(held: list[Tensor]) -> dict[str, Any]:
    whole = torch.cat([labels.detach().flatten().cpu() for labels in held])
    kept = whole if whole.is_floating_point() else whole[whole != IGNORED]
    values, counts = kept.unique(return_counts=True)  # type: ignore[no-untyped-call]
    shares = counts.double() / max(int(counts.sum()), 1)
    return {
        "n_labels": int(kept.numel()),
        "n_distinct": int(values.numel()),
        "constant": int(values.numel()) == 1 and int(kept.numel()) > 3,
        "all_ignored": bool(whole.numel()) and not bool(kept.numel()),
        "majority_share": float(shares.max()) if len(shares) else 0.0,
        "entropy": float(-(shares * shares.log()).sum()),
    }
