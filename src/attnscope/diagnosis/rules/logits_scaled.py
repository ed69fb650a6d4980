"""What the last projection gives is multiplied by a constant before it leaves the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import ScaledOutput
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect
from attnscope.diagnosis.rules._evidence import shown


@dataclass(frozen=True)
class LogitsScaled(Rule):
    """The output is multiplied by a constant behind the last projection: a temperature.

    **What it means** Logits c times as large are those of a model that is c times as sure; the loss sees them so.

    **Why it matters** A factor that was left in from sampling or distillation makes gradients at the last layer c
    times as large, the loss at the start too large or the model slow to become sure.

    **Evidence required** In one forward pass the result of the last projection is multiplied with, or divided by, a
    plain number other than 1. Always a note: some models are built that way.

    **When it is a false alarm** Models with a logit scale by design.

    **How to confirm** Compare the loss at the start with the logarithm of the number of classes.

    **What to try** Apply a temperature where outputs are sampled, not in the model.
    """

    code: ClassVar[str] = "DAT705"
    severity: ClassVar[Severity] = Severity.NOTE
    needs: ClassVar[tuple[str, ...]] = ()
    alternatives: ClassVar[tuple[str, ...]] = ("a logit scale by design",)
    remedies: ClassVar[tuple[str, ...]] = ("apply a temperature where outputs are sampled, not in the model",)

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One note per output."""
        return [_suspect(item) for item in examination.anatomy.scaled_outputs]


def _suspect(item: ScaledOutput) -> Suspect:
    said = f"what {item.place} gives is multiplied by {shown(item.factor)} before it leaves the model"
    return Suspect(
        kind="logits_scaled",
        place=item.place,
        evidence=(Evidence(said, "anatomy", item.factor, 1.0, True),),
        confidence=0.6,
        severity=Severity.NOTE,
        source=item.source,
        summary=f"{said[0].upper()}{said[1:]}.",
    )
