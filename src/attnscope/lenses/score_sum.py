"""Whether the scores of a bag of words only move against each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from attnscope.lenses import Lens
from attnscope.lenses._free_keys import FreeKeys, free_keys
from attnscope.lenses._parameters import named
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class ScoreSum(Lens):
    """Whether the scores of all words sum to what they did: with free keys and a fixed query an exact law.

    **Measures** per attention whose keys are a free table, |sum of the changes of all words' scores since the
    start| / sum of their absolute values (unit 1); of the scores themselves when the start is not known.

    **Reading it** 0 to rounding under plain gradient descent, with or without momentum, on any data: a softmax
    passes gradients on that sum to zero. Anything else says that something besides the gradient moved the
    keys: Adam's division, weight decay, a query that moves, or a table that is used elsewhere too. No fault by
    itself.

    **Shapes** [layer]; NaN where keys are no free table. Facts: `laws`: list of {layer, sum, sum_at_start,
    query_moved}.

    **Cost** one forward pass, shared.

    **Reference** Lu, Mao, Nayak 2021, arXiv:2011.10036; the law follows from its gradient equations.
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("layer",)
    needs: ClassVar[tuple[str, ...]] = ("pattern", "weights")

    def measure(self, probe: Probe) -> Reading:
        """The relative drift of the sum."""
        found = [free_keys(probe, index) for index in range(len(probe.anatomy.attentions))]
        if not any(found):
            return self.not_applicable("no attention's keys are a free table of words scored by one query")
        laws: list[dict[str, Any]] = []
        values = [
            float("nan") if keys is None else _drift(probe, keys, attention.layer, laws)
            for attention, keys in zip(probe.anatomy.attentions, found, strict=True)
        ]
        layers = tuple(item.layer for item in probe.anatomy.attentions)
        return self.reading(values, coords={"layer": layers}, step=probe.step, facts={"laws": laws})


def _drift(probe: Probe, keys: FreeKeys, layer: int, laws: list[dict[str, Any]]) -> float:
    now = keys.scores(probe, named(probe.model))
    known = probe.start is not None and keys.known_in(probe, probe.start)
    before = keys.scores(probe, probe.start) if known and probe.start is not None else np.zeros_like(now)
    moved = None
    if known and probe.start is not None:
        moved = keys.query_norm(probe, named(probe.model)) != keys.query_norm(probe, probe.start)
    laws.append({
        "layer": layer, "sum": float(now.sum()), "sum_at_start": float(before.sum()) if known else None,
        "query_moved": moved,
    })
    total = float(np.abs(now - before).sum())
    return float(abs((now - before).sum())) / total if total else 0.0
