"""How far the past moves when only a later token is changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attnscope.lenses import Lens
from attnscope.lenses._identity import (
    Comparison,
    Trial,
    by_position,
    compare,
    entries_of,
    moved_positions,
    outcome,
    output_mask,
    position_axis,
)
from attnscope.lenses._movement import results
from attnscope.lenses._sequence import Sequence, other_values, predicted_sequence
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class FutureToken(Lens):
    """How far the past moves when only a later token is changed: exactly zero in a causal model.

    **Measures**: runs in eval mode that differ in one token per example. Per attention, the largest change of
    its result at earlier positions, relative to the largest result. The facts hold the same for the model's
    output (`moved`, `exact`, `tolerance`, `violated`), where it starts (`first_layer`, `outside_attention`)
    and how far back it reaches there (`offsets`: an attention that is off by k reaches 1..k back) and at the
    output (`output_offsets`).

    **Reading it**: 0 bit for bit in a causal model; of order 1 in a bidirectional one, where it means
    nothing. A small number in a causal model: its mask is filled with a number too small to silence the
    future.

    **Shapes**: (layer,).

    **Cost**: `picks` watched forward passes.

    **Reference**: an identity of causal attention (Vaswani et al., 2017, arXiv:1706.03762, section 3.2.3).
    """

    picks: int = 2

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("layer",)

    def measure(self, probe: Probe) -> Reading:
        """Changes a late token, then one in the middle, and looks at what lies before it."""
        sequence = predicted_sequence(probe)
        if sequence is None:
            return self.not_applicable("the batch holds no sequence of tokens or features")
        places = [place for place in _places(sequence, self.picks) if bool(_earlier(place, sequence.real).any())]
        if not places:
            return self.not_applicable("no example has two real positions")
        output = outcome(probe).output
        axis = None if output is None else position_axis(probe, output, sequence)
        trials = [
            Trial(
                batch=sequence.put(probe.batch, other_values(sequence, place, probe.seed)),
                entries=entries_of(_earlier(place, sequence.real)),
                where=None if output is None else output_mask(output, axis, sequence, _earlier(place, sequence.real)),
            )
            for place in places
        ]
        found = compare(probe, trials)
        return found.reading(
            self,
            probe,
            input=sequence.path,
            offsets=_layer_offsets(probe, found, places, sequence),
            output_offsets=_output_offsets(found, places, sequence) if axis is not None else [],
        )


def _places(sequence: Sequence, picks: int) -> list[Tensor]:
    """Masks that mark one real position per example: the last one, then earlier ones."""
    real = sequence.real
    count = real.long().sum(-1, keepdim=True)
    rank = real.long().cumsum(-1)
    places = []
    for pick in range(picks):
        wanted = (count * (picks - pick)).div(picks, rounding_mode="floor").clamp(min=1)
        places.append(real & (rank == wanted))
    return places


def _earlier(place: Tensor, real: Tensor) -> Tensor:
    """True on real positions before the marked one; nowhere in a row without a mark.

    A padded query may see anything: on the left of a text all its keys are masked, which leaves them equal.
    """
    reached = place.long().cumsum(-1) > 0
    return ~reached & place.any(-1, keepdim=True) & real


def _layer_offsets(probe: Probe, found: Comparison, places: list[Tensor], sequence: Sequence) -> dict[str, list[int]]:
    """Layer -> how far back its own result moved, for layers whose input had not moved there."""
    offsets: dict[str, set[int]] = {}
    for (before, after), place in zip(found.outcomes, places, strict=True):
        if before.observation is None or after.observation is None:
            continue
        pairs = zip(before.observation.attentions, after.observation.attentions, strict=True)
        for attention, (old, new) in zip(probe.anatomy.attentions, pairs, strict=True):
            a, b = results(old, new)
            if b is None or a.shape != b.shape:
                continue
            where = entries_of(place)(a.shape[0], a.shape[2])
            real = entries_of(sequence.real)(a.shape[0], a.shape[2])
            if where is None or real is None:
                continue
            moved = moved_positions(a.transpose(1, 2), b.transpose(1, 2), found.bound)
            offsets.setdefault(str(attention.layer), set()).update(_distances(moved & real, where))
    return {layer: sorted(items) for layer, items in offsets.items()}


def _output_offsets(found: Comparison, places: list[Tensor], sequence: Sequence) -> list[int]:
    offsets: set[int] = set()
    for (before, after), place in zip(found.outcomes, places, strict=True):
        if before.output is None or after.output is None or before.output.shape != after.output.shape:
            continue
        moved = moved_positions(by_position(before.output, sequence), by_position(after.output, sequence), found.bound)
        offsets.update(_distances(moved & sequence.real, place))
    return sorted(offsets)


def _distances(moved: Tensor, place: Tensor) -> set[int]:
    """How far before the marked position the moved ones lie."""
    marked = place.long().argmax(-1, keepdim=True)
    distance = marked - torch.arange(place.shape[-1])
    chosen = moved & (distance > 0) & place.any(-1, keepdim=True)
    return {int(value) for value in distance.expand(moved.shape)[chosen].tolist()}
