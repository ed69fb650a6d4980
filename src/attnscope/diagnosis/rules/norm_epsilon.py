"""The epsilon of one normalisation is out of line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect
from attnscope.diagnosis.rules._evidence import shown

_APART = 100.0  # times; libraries choose 1e-12 to 1e-5, a model chooses once
_MATTERS = 0.05  # share of what the norm divides by; below it the output changes by less than 2.5 %


@dataclass(frozen=True)
class NormEpsilon(Rule):
    """The epsilon of one normalisation is far above that of its counterparts in the other layers.

    **What it means** A norm divides by sqrt(variance + epsilon). Where epsilon is not small beside the variance, states
    that should be brought to size one keep part of their own size, and small ones stay small.

    **Why it matters** The layer's input, and so its scores, depend on a size that the other layers have removed.

    **Evidence required** An epsilon more than 100 times that of the norm at the same place of the other layers, which
    agree. A warning when it is more than 5 % of what the norm divides by (the median over what it normalises), else a
    note. Norms at different places may have different epsilons.

    **When it is a false alarm** A layer that is to run in lower precision than the others.

    **How to confirm** The variance of the norm's output, before gain and bias, is below 1.

    **What to try** Set the epsilon to that of the other layers.
    """

    code: ClassVar[str] = "CRV611"
    severity: ClassVar[Severity] = Severity.WARNING
    needs: ClassVar[tuple[str, ...]] = ("norm_inputs",)
    alternatives: ClassVar[tuple[str, ...]] = ("a layer that is to run in lower precision than the others",)
    remedies: ClassVar[tuple[str, ...]] = ("set the epsilon to that of the other layers",)

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per norm whose epsilon is out of line."""
        reading = examination.reading("norm_inputs")
        told = {} if reading is None else dict(reading.facts.get("epsilon", {}))
        suspects = []
        for name, own in told.items():
            peers = [other for other in told if other != name and _place(other) == _place(name)]
            others = {told[peer]["epsilon"] for peer in peers}
            if len(others) == 1 and own["epsilon"] > _APART * max(others) > 0:
                suspects.append(_suspect(name, own["epsilon"], max(others), own["share"]))
        return suspects


def _place(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def _suspect(name: str, epsilon: float, usual: float, share: float) -> Suspect:
    matters = share > _MATTERS
    return Suspect(
        kind="norm_epsilon",
        place=name,
        evidence=(
            Evidence(
                f"the epsilon of {name} is {shown(epsilon)}, that of its counterparts {shown(usual)}",
                "norm_inputs",
                epsilon,
                usual,
                True,
            ),
            Evidence(f"it makes up {shown(100 * share)} % of what the norm divides by", "norm_inputs", share, 0.0),
        ),
        confidence=0.9 if matters else 0.6,
        severity=Severity.WARNING if matters else Severity.NOTE,
        score=share,
        summary=f"The epsilon of {name} is {shown(epsilon)}, {shown(epsilon / usual)} times that of its counterparts"
        + ("." if matters else ", and small beside the variance of its input."),
        effects=(f"norm_gain@{name}",),
    )
