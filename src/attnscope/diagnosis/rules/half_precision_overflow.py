"""Scores are too large for float16."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect
from attnscope.diagnosis.rules._evidence import by_layer, first_source, shown


@dataclass(frozen=True)
class HalfPrecisionOverflow(Rule):
    """Query-key products are larger than float16 can hold, so they become infinite there.

    **What it means** The largest number of float16 is 65504. A product beyond it is infinite; two infinities
    in one row, or one after a mask, give NaN.

    **Why it matters** In float16 (also under autocast) the loss becomes NaN, or the loss scaler skips steps
    without end. In bfloat16 nothing overflows, but scores of that size are rounded to multiples of 256.

    **Evidence required** The largest product or score measured on the batch exceeds 65504.

    **When it is a false alarm** The model never runs in float16.

    **How to confirm** Run one forward pass under `torch.autocast(..., dtype=torch.float16)`.

    **What to try** Scale queries before the product, not scores after it.
    """

    code: ClassVar[str] = "SFT209"
    severity: ClassVar[Severity] = Severity.WARNING
    needs: ClassVar[tuple[str, ...]] = ("score_overflow",)
    alternatives: ClassVar[tuple[str, ...]] = ("the model is never run in float16",)
    remedies: ClassVar[tuple[str, ...]] = (
        "scale the queries before the product instead of the scores after it",
        "compute scores and softmax in float32, or use bfloat16",
        "normalise queries and keys",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per layer that overflows."""
        suspects = []
        for layer, shares in by_layer(examination.reading("score_overflow")).items():
            largest = float(shares.max())
            if largest < 1:
                continue
            attention = next(item for item in examination.anatomy.attentions if item.layer == layer)
            half = examination.precision == "float16"
            suspects.append(
                Suspect(
                    kind="half_precision_overflow",
                    place=attention.site("scores"),
                    evidence=(
                        Evidence(
                            f"the largest product of L{layer} is {shown(largest * 65504)}; float16 ends at 65504",
                            "score_overflow",
                            largest * 65504,
                            65504.0,
                            True,
                        ),
                    ),
                    confidence=1.0 if half else 0.8,
                    severity=Severity.ERROR if half else Severity.WARNING,
                    source=first_source(attention.score_step),
                    summary=f"Scores of L{layer} reach {shown(largest * 65504)} and overflow in float16.",
                )
            )
        return suspects
