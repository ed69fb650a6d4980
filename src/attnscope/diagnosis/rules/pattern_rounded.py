"""One layer computes its attention in a narrower number format than the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from attnscope.anatomy.blocks import Attention
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect
from attnscope.diagnosis.rules._evidence import first_source

_NARROW = 11.0  # digits of float16 and of tf32; bfloat16 has 8
_WIDE = 20.0  # the coarsest weights of a float32 model use 22 or more


@dataclass(frozen=True)
class PatternRounded(Rule):
    """The weights of one layer were rounded to half precision or less; those of the other layers were not.

    **What it means** Somewhere between scores and values this layer casts to a narrow format, and often back:
    `.half()` around a softmax, an autocast region around one block, a quantised kernel in one place.

    **Why it matters** Scores of size 10 keep two or three decimals; a softmax in float16 loses small weights,
    and one without the maximum subtracted overflows above a score of 11.

    **Evidence required** Every weight of this layer's pattern fits in 11 binary digits, while those of all
    other attentions use 20 or more.

    **When it is a false alarm** One layer that is run in half precision on purpose.

    **How to confirm** `(pattern == pattern.bfloat16().float()).all()` in this layer and in another.

    **What to try** Compute scores and softmax in the precision of the other layers.
    """

    code: ClassVar[str] = "SFT220"
    severity: ClassVar[Severity] = Severity.WARNING
    needs: ClassVar[tuple[str, ...]] = ("pattern_bits",)
    alternatives: ClassVar[tuple[str, ...]] = ("this layer runs in half precision on purpose",)
    remedies: ClassVar[tuple[str, ...]] = (
        "compute scores and softmax in the precision of the other layers",
        "if one layer must be narrow, subtract each row's largest score before the exponential",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect for the one layer whose weights are coarse beside all the others."""
        reading = examination.reading("pattern_bits")
        if reading is None:
            return []
        digits = {int(layer): float(value) for layer, value in zip(
            reading.labels("layer"), np.asarray(reading.values), strict=True
        ) if not np.isnan(value)}
        narrow = [layer for layer, value in digits.items() if value <= _NARROW]
        others = [value for layer, value in digits.items() if layer not in narrow]
        if len(narrow) != 1 or not others or min(others) < _WIDE:
            return []
        attention = next(item for item in examination.anatomy.attentions if item.layer == narrow[0])
        return [_suspect(attention, digits[attention.layer], min(others))]


def _suspect(attention: Attention, digits: float, others: float) -> Suspect:
    layer = attention.name
    name = "an eight-bit format" if digits <= 4 else "bfloat16" if digits <= 8 else "float16"
    return Suspect(
        kind="pattern_rounded",
        place=attention.site("softmax"),
        evidence=(
            Evidence(
                f"every weight of {layer} fits in {digits:.0f} binary digits, those of the other layers in "
                f"{others:.0f} or more",
                "pattern_bits",
                digits,
                others,
                True,
            ),
        ),
        confidence=0.9,
        source=first_source(attention.softmax, attention.value_step),
        summary=f"{layer} rounds its attention to {name}: its weights use {digits:.0f} binary digits, those of the "
        f"other layers {others:.0f}.",
        effects=(f"altered_gradient@{layer}.*", f"rows_not_normalised@{layer}.*", f"heads_blended@{layer}.*"),
    )
