"""How far the model's function moves when a head's part of the output projection is set to zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from attnscope.lenses import STANDARD, Lens
from attnscope.lenses._ablation import effect_of, untouched
from attnscope.lenses._edits import edited_slices
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class HeadAblation(Lens):
    """How far the output moves when one head is cut out.

    **Measures**: the change of the output relative to its largest entry, when the head's part of the output
    projection (of the values, where there is no output projection) is set to zero. The facts hold the change
    of the loss (`loss_change`, [layer][head]).

    **Reading it**: 0 exactly: the head does nothing. Small for many heads of a trained model, which can spare
    them; one head far above the rest carries the task.

    **Shapes**: (layer, head).

    **Cost**: one forward pass per head.

    **Reference**: Michel et al., 2019, arXiv:1905.10650.
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("layer", "head")
    needs: ClassVar[tuple[str, ...]] = ("pattern",)
    effort: ClassVar[str] = STANDARD

    def measure(self, probe: Probe) -> Reading:
        """Cuts one head after the other."""
        attentions = probe.anatomy.attentions
        cuts = [
            attention.head_slices.get("output") or attention.head_slices.get("value", ()) for attention in attentions
        ]
        width = max(map(len, cuts), default=0)
        if not width:
            return self.not_applicable("no attention has an output or a value projection of its own")
        values = np.full((len(attentions), width), np.nan)
        changes: list[list[float | None]] = [[None] * width for _ in attentions]
        with probe.evaluating() as model, torch.no_grad():
            before = untouched(probe, model)
            if before.output is None:
                return self.not_applicable("the model's output holds no tensor of numbers")
            for layer, heads in enumerate(cuts):
                for head, pieces in enumerate(heads):
                    matrices = [piece for piece in pieces if len(piece.shape) > 1] or list(pieces)
                    with edited_slices(model, matrices, torch.zeros_like):
                        values[layer, head], changes[layer][head] = effect_of(probe, model, before)
        return self.reading(
            values,
            coords={
                "layer": tuple(attention.layer for attention in attentions),
                "head": tuple(range(width)),
            },
            step=probe.step,
            facts={"loss": before.loss, "loss_change": changes},
        )
