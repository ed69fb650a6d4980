"""One direction of a two-way recurrent module reaches nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.diagnosis.rules import Evidence, Examination, Rule, Suspect


@dataclass(frozen=True)
class DirectionDropped(Rule):
    """One direction of a two-way recurrent encoder is computed and then lost.

    **What it means** The states of the backward (or forward) direction are cut away, zeroed or overwritten before
    anything reads them.

    **Why it matters** A token knows only what stands on one side of it, and half of the encoder never trains.

    **Evidence required** Every weight of one direction has a gradient of exactly zero, those on its input included,
    while weights of the other direction have one.

    **When it is a false alarm** A module that is built two-way and read one-way on purpose; build it one-way.

    **How to confirm** Change the weights of that direction at random: the output does not move.

    **What to try** Look how the module's output is cut: the last half of the last axis holds the backward states.
    """

    code: ClassVar[str] = "GRD520"
    needs: ClassVar[tuple[str, ...]] = ("silent_directions",)
    alternatives: ClassVar[tuple[str, ...]] = ("only one direction is meant to be read",)
    remedies: ClassVar[tuple[str, ...]] = (
        "read both halves of the recurrent module's output",
        "build the module with bidirectional=False when one direction is meant",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per direction and layer of a recurrent module."""
        reading = examination.reading("silent_directions")
        return [] if reading is None else [_suspect(**item) for item in reading.facts.get("silent", ())]


def _suspect(block: str, module: str, layer: int, direction: str, n_parameters: int) -> Suspect:
    said = f"all {n_parameters} parameters of the {direction} direction of {module} (layer {layer}) have no gradient"
    return Suspect(
        kind="direction_dropped",
        place=block,
        evidence=(
            Evidence(f"{said}, while the other direction has one", "silent_directions", 0.0, None, True),
        ),
        confidence=0.95,
        summary=f"The {direction} states of {module} reach nothing: {said}.",
        effects=(f"cut_gradient@{block}", f"unused_parameter@{block}"),
    )
