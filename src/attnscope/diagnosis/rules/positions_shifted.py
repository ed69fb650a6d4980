"""Positions are moved against those of training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect
from attnscope.diagnosis.rules._evidence import shown
from attnscope.diagnosis.rules._healthy import healthy

_CLEAR = 0.1  # a shift must save this share of the loss, and twice what any shift saves in a healthy model
_LEAST = 0.05  # and this much of it: the loss of a model that has learnt its task is too small to tell


@dataclass(frozen=True)
class PositionsShifted(Rule):
    """The positions that the model is given are shifted against those it was trained with.

    **What it means** Moving all rows of the table of positions by a few places lowers the loss: each token
    gets the position of one of its neighbours. Usual causes are counting from one instead of zero, an offset
    for padding that is added twice or left out, and padding on the other side.

    **Why it matters** The model still works, a little worse everywhere, and nobody looks for the reason.

    **Evidence required** Some shift lowers the loss of the batch by more than a tenth, and the shift of zero
    is not the minimum.

    **When it is a false alarm** In an untrained model all shifts are about as good: not reported.

    **How to confirm** Pass `position_ids` moved by that shift.

    **What to try** Compare the position ids with those of the training code.
    """

    code: ClassVar[str] = "POS403"
    severity: ClassVar[Severity] = Severity.WARNING
    needs: ClassVar[tuple[str, ...]] = ("position_shift",)
    symptom: ClassVar[bool] = True
    alternatives: ClassVar[tuple[str, ...]] = ("the batch is padded on the other side than in training",)
    remedies: ClassVar[tuple[str, ...]] = (
        "count positions as in training: from zero, or after the padding offset",
        "pass position_ids explicitly",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """At most one suspect, at the table."""
        reading = examination.reading("position_shift")
        loss = float(reading.facts.get("loss", float("nan"))) if reading is not None else float("nan")
        if reading is None or not loss > 0 or reading.facts.get("one_row") or reading.facts.get("constant"):
            return []
        values = np.where(np.isnan(reading.values), np.inf, reading.values)
        best = int(values.argmin())
        shift, saved = int(reading.labels("shift")[best]), -float(values[best])
        if shift == 0 or saved < max(_CLEAR * loss, 2 * healthy("saved_by_shift").highest * loss, _LEAST):
            return []
        table = str(reading.facts.get("parameter", "positions"))
        place = next(
            (
                block.name
                for block in examination.anatomy.blocks
                if any(piece.parameter == table for piece in block.slices)
            ),
            "positions",
        )
        return [
            Suspect(
                kind="positions_shifted",
                place=place,
                evidence=(
                    Evidence(
                        f"with positions moved by {shift:+d} the loss falls from {shown(loss)} to "
                        f"{shown(loss - saved)}",
                        "position_shift",
                        loss - saved,
                        loss,
                    ),
                ),
                confidence=0.8,
                effects=("positions",),
                score=saved,
                summary=f"Positions are shifted: moved by {shift:+d} they lower the loss by {shown(saved)}.",
            )
        ]
