"""Whether each query's attention adds up to one, and over which axis it does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from attnscope.lenses import Lens
from attnscope.lenses._per_head import heads_reading, nested
from attnscope.lenses._rows import Rows, rows
from attnscope.probe import Probe
from attnscope.readings import Reading

AXES = {"batch": 0, "heads": 1, "queries": 2, "keys": 3}


@dataclass(frozen=True)
class RowSums(Lens):
    """How far the attention of a query is from adding up to one: an identity of every softmax over keys.

    **Measures** the largest |sum over keys of the pattern - 1| over real queries (unit 1).

    **Reading it** rounding (1e-6 in float32, 1e-2 in bfloat16) is healthy. Large with `sums_to_one` naming
    another axis: the softmax runs over that axis. Large while `softmax_deviation` is small: something after
    the softmax changed the weights (a mask, a dropout that is on, talking heads). Large in both: sigmoid or
    linear weights, which may be meant. A `widest_ratio` never above e = 2.72, or scores that are themselves
    a distribution, mean that a softmax is applied twice.
    `cleared_after` names layers where some weights were set to zero behind the softmax.

    **Shapes** [layer, head]. Facts: `softmax_deviation`: the same directly after the softmax, per
    [layer][head]; `deviation_over`: per layer, axis name -> largest |sum - 1| over that axis directly
    after the softmax (None for an axis of size 1); `sums_to_one`: the axes for which that is rounding;
    `lowest_sum`, `highest_sum` per [layer][head]; `widest_ratio`: largest over smallest weight a query
    gives to two allowed keys, the widest over rows, per [layer][head]; `scores_are_a_distribution`:
    whether what the softmax receives already adds up to one, per layer; `cleared_after`: whether the pattern
    is the softmax's result with part of a row set to zero, per layer; `tolerance` per layer.

    **Cost** one forward pass, shared.

    **Reference** none needed: an identity.
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("layer", "head")
    needs: ClassVar[tuple[str, ...]] = ("pattern",)

    def measure(self, probe: Probe) -> Reading:
        """The deviation of each head."""
        deviations: list[Tensor | None] = []
        after_softmax: list[Tensor | None] = []
        lowest: list[Tensor | None] = []
        highest: list[Tensor | None] = []
        ratios: list[Tensor | None] = []
        facts: dict[str, list[Any]] = {
            "deviation_over": [], "sums_to_one": [], "scores_are_a_distribution": [], "tolerance": [],
            "cleared_after": [],
        }
        for layer in rows(probe):
            output = layer.tensors.softmax_output.detach().cpu().double()
            tolerance = sum_tolerance(layer.tensors.pattern)
            over = {name: _deviation_over(output, axis) for name, axis in AXES.items()}
            facts["deviation_over"].append(over)
            facts["sums_to_one"].append([
                name for name, value in over.items() if value is not None and value <= tolerance
            ])
            facts["tolerance"].append(tolerance)
            facts["cleared_after"].append(_cleared(layer))
            facts["scores_are_a_distribution"].append(_is_distribution(layer, tolerance))
            if not bool(layer.counts.any()):
                for found in (deviations, after_softmax, lowest, highest, ratios):
                    found.append(None)
                continue
            sums = layer.pattern.sum(-1)
            deviations.append(layer.largest((sums - 1).abs()))
            after_softmax.append(layer.largest((output.sum(-1) - 1).abs()))
            lowest.append(torch.where(layer.counts, sums, torch.inf).amin((0, 2)))
            highest.append(torch.where(layer.counts, sums, -torch.inf).amax((0, 2)))
            ratios.append(_widest_ratio(layer))
        return heads_reading(
            self, probe, deviations, why_none="no query of the first batch may see a key",
            facts={
                "softmax_deviation": nested(after_softmax), "lowest_sum": nested(lowest),
                "highest_sum": nested(highest), "widest_ratio": nested(ratios), **facts,
            },
        )


def sum_tolerance(pattern: Tensor) -> float:
    """What rounding may do to a sum over the longest axis: it grows with the root of the length."""
    return float(8 * torch.finfo(pattern.dtype).eps * max(pattern.shape) ** 0.5)


def _deviation_over(output: Tensor, axis: int) -> float | None:
    """Largest |sum over the axis - 1|, sums of zero (fully masked) left out; None for an axis of one."""
    if output.shape[axis] < 2:
        return None
    sums = output.sum(axis)
    sums = sums[sums != 0]
    return float((sums - 1).abs().max()) if sums.numel() else None


def _cleared(layer: Rows) -> bool:
    """Whether some row lost part of its weights behind the softmax and kept the others bit for bit."""
    before, after = layer.tensors.softmax_output.detach().cpu().double(), layer.pattern
    if before.shape != after.shape:
        return False
    lost = (before != 0) & (after == 0)
    part = lost.any(-1) & (after != 0).any(-1) & layer.counts
    return bool(part.any()) and bool((lost | (before == after)).all())


def _is_distribution(layer: Rows, tolerance: float) -> bool:
    """Whether the scores that the softmax receives are non-negative and add up to one over allowed keys."""
    scores = layer.tensors.scores.detach().cpu().double()
    kept = layer.allowed & ~scores.isneginf() & layer.counts[..., None]
    if scores.shape[-1] < 2 or bool((scores < -tolerance).logical_and(kept).any()):
        return False
    sums = torch.where(kept, scores, 0.0).sum(-1)[layer.counts]
    return bool(sums.numel() and (sums - 1).abs().max() <= tolerance)


def _widest_ratio(layer: Rows) -> Tensor:
    """Per head, the widest ratio between two weights of one row over allowed keys."""
    due = layer.counts & (layer.allowed.sum(-1) >= 2)
    most = torch.where(layer.allowed, layer.pattern, -torch.inf).amax(-1)
    least = torch.where(layer.allowed, layer.pattern, torch.inf).amin(-1)
    ratio = most / least.clamp(min=torch.finfo(torch.float64).tiny)
    return torch.where(due, ratio, 1.0).amax((0, 2))
