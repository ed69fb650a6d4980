"""An intervention that must leave something as it was: what is run, what is compared, what is reported."""

from __future__ import annotations

import math
from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attnscope.anatomy.observe import Observation
from attnscope.lenses import Lens
from attnscope.lenses._batch import mapped
from attnscope.lenses._movement import (
    Entries,
    LayerMovement,
    change,
    layer_movements,
    main_output,
    movement,
    origin,
    tolerance,
)
from attnscope.lenses._sequence import Sequence
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class Outcome:
    """What the model did with a batch: its main output, and its attentions where they could be observed."""

    output: Tensor | None
    observation: Observation | None


@dataclass(frozen=True)
class Trial:
    """One intervention.

    Attributes:
        batch: the batch with something changed in it.
        entries: of each attention, what must not move.
        where: bool, broadcastable to the output: what of it must not move; None when it cannot be compared.
        batch_before: what it is compared with, when that is not the probe's own batch.
    """

    batch: Any
    entries: Entries
    where: Tensor | None
    batch_before: Any = None


def outcome(probe: Probe, batch: Any = None) -> Outcome:
    """Runs the model in eval mode, watching its attentions when it has any."""
    if not probe.anatomy.attentions:
        return Outcome(main_output(probe.output(batch)), None)
    observed = probe.observation if batch is None else probe.observation_of(batch)
    return Outcome(main_output(observed.output), observed)


@dataclass(frozen=True)
class Comparison:
    """What all trials of an intervention say together.

    Attributes:
        moved: of the output, NaN when no trial could compare it.
        bound: the movement that rounding explains.
        layers: per attention, the largest movement over the trials.
        outcomes: what each trial did, beside what it was compared with.
    """

    moved: float
    bound: float
    layers: tuple[LayerMovement, ...]
    outcomes: tuple[tuple[Outcome, Outcome], ...]

    @property
    def facts(self) -> dict[str, Any]:
        """What rules need, as plain data."""
        first, outside = origin(self.layers, self.bound)
        seen = [item.context for item in self.layers if not math.isnan(item.context)]
        worst = max([*seen, *([] if math.isnan(self.moved) else [self.moved])], default=float("nan"))
        return {
            "moved": self.moved,
            "output_compared": not math.isnan(self.moved),
            "exact": worst == 0.0,
            "tolerance": self.bound,
            "violated": bool(worst > self.bound),
            "output_violated": bool(self.moved > self.bound),
            "first_layer": first,
            "outside_attention": outside,
            "hidden_moved": {str(item.layer): item.hidden for item in self.layers},
        }

    @property
    def compared(self) -> bool:
        """Whether anything could be compared at all."""
        return not math.isnan(self.moved) or any(not math.isnan(item.context) for item in self.layers)

    def reading(self, lens: Lens, probe: Probe, **facts: Any) -> Reading:
        """The reading over (layer,), with the facts."""
        if not self.compared:
            return lens.not_applicable("neither the output nor an attention has entries that can be compared")
        values = [item.context for item in self.layers]
        reading = lens.reading(
            values,
            coords={"layer": tuple(item.layer for item in self.layers)},
            step=probe.step,
            facts={**self.facts, **facts},
        )
        if values and all(math.isnan(value) for value in values):
            return Reading(**{**vars(reading), "status": "ok", "note": "only the output could be compared"})
        return reading


def compare(probe: Probe, trials: Many[Trial], roundings: float = 8) -> Comparison:
    """Runs the trials and compares each with the untouched batch."""
    return compare_outcomes(
        probe,
        [
            (outcome(probe, trial.batch_before), outcome(probe, trial.batch), trial.where, trial.entries)
            for trial in trials
        ],
        roundings,
    )


def compare_outcomes(
    probe: Probe, pairs: Many[tuple[Outcome, Outcome, Tensor | None, Entries]], roundings: float = 8
) -> Comparison:
    """As `compare`, for outcomes that are there: (before, after, what of the output, what of an attention)."""
    moved, per_trial, bound = [float("nan")], [], tolerance(torch.float32, roundings)
    for before, after, where, entries in pairs:
        if before.output is not None and after.output is not None:
            bound = tolerance(before.output.dtype, roundings)
            if where is not None and before.output.shape == after.output.shape:
                moved.append(movement(before.output, after.output, where))
        if before.observation is not None and after.observation is not None:
            per_trial.append(layer_movements(probe.anatomy, before.observation, after.observation, entries))
    outcomes = tuple((before, after) for before, after, _, _ in pairs)
    return Comparison(_largest(moved), bound, _together(per_trial), outcomes)


def _largest(values: Many[float]) -> float:
    real = [value for value in values if not math.isnan(value)]
    return max(real) if real else float("nan")


def _together(trials: list[tuple[LayerMovement, ...]]) -> tuple[LayerMovement, ...]:
    return tuple(
        LayerMovement(
            items[0].layer,
            _largest([item.hidden for item in items]),
            _largest([item.context for item in items]),
        )
        for items in zip(*trials, strict=False)
    )


def position_axis(probe: Probe, output: Tensor, sequence: Sequence) -> int | None:
    """The axis of the output that runs over positions; None when the output has none.

    A [batch, classes] output of as many classes as positions is told apart by a shorter sequence.
    """
    expected = sequence.position_axis if sequence.batch_axis is not None else 0
    if output.ndim <= expected or output.shape[expected] != sequence.length:
        return None
    if sequence.batch_axis is not None and sequence.batch_axis < 2:
        other = output.shape[sequence.batch_axis] if output.ndim > sequence.batch_axis else -1
        if other != sequence.size:
            return None
    if output.ndim > expected + 1 and output.ndim > 2:
        return expected
    try:
        shorter = main_output(probe.output(shortened(probe.batch, sequence)))
    except Exception:  # a model of fixed length: its output is not taken to run over positions
        return None
    if shorter is None or shorter.ndim != output.ndim:
        return None
    return expected if shorter.shape[expected] != output.shape[expected] else None


def shortened(batch: Any, sequence: Sequence) -> Any:
    """The batch with every sequence one position shorter."""

    def cut(path: str, tensor: Tensor) -> Tensor:
        axis = sequence.position_axis
        if tensor.ndim > axis and tensor.shape[axis] == sequence.length:
            return tensor.narrow(axis, 0, sequence.length - 1).contiguous()
        return tensor

    return mapped(batch, cut)


def output_mask(output: Tensor, axis: int | None, sequence: Sequence, mask: Tensor) -> Tensor | None:
    """A bool `[example, position]` mask in the output's own layout; None when the output has no positions."""
    if axis is None or mask.ndim != 2:
        return None
    if sequence.batch_axis is None:
        mask = mask[0]
    elif sequence.batch_axis == 1:
        mask = mask.transpose(0, 1)
    return mask.reshape(*mask.shape, *[1] * (output.ndim - mask.ndim))


def by_position(tensor: Tensor, sequence: Sequence) -> Tensor:
    """An output that has positions, as `[example, position, ...]`."""
    return sequence.laid_out(tensor)


def moved_positions(before: Tensor, after: Tensor, bound: float) -> Tensor:
    """Bool `[example, position]`: what moved of two tensors laid out as `[example, position, ...]`."""
    apart = change(before, after)
    size = torch.nan_to_num(before.detach().double().cpu(), nan=0.0, posinf=0.0, neginf=0.0).abs().max()
    return apart.flatten(2).amax(-1) > bound * float(size) if apart.ndim > 2 else apart > bound * float(size)


def entries_of(mask: Tensor) -> Entries:
    """The `[..., position]` mask in an attention's layout, where the attention has one query per position."""

    def entries(batch_size: int, n_queries: int) -> Tensor | None:
        if mask.shape[-1] != n_queries or mask.numel() != batch_size * n_queries:
            return None
        return mask.reshape(batch_size, n_queries)

    return entries
