"""One layer multiplies its residual with a number that its siblings do not have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import Attention
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect
from attnscope.diagnosis.rules._evidence import first_source, peers_of, shown

_NEEDED = 2  # others that agree, when theirs is not the plain addition


@dataclass(frozen=True)
class ResidualScaled(Rule):
    """One layer adds its residual some times too large or too small, and the other layers do not.

    **What it means** Where the attention's output is added to its input, the input is multiplied with a
    constant; the other layers of the stack add it as it is, or all with one other constant.

    **Why it matters** A residual that is too large drowns the attention (the layer hardly counts), one that is
    too small loses what the layers before it found; every layer after it sees another size.

    **Evidence required** The trace sees a constant factor on the residual of this layer, and another one on
    that of all its siblings: 1 in one other layer at least, or another number that two or more share.

    **When it is a false alarm** Schemes that scale by depth on purpose. Those that scale all layers alike
    (DeepNorm) and learned factors (ReZero, LayerScale) are not reported.

    **How to confirm** Set the factor to that of the other layers and compare the loss.

    **What to try** `hidden = hidden + attended` as in the other layers.
    """

    code: ClassVar[str] = "CRV620"
    severity: ClassVar[Severity] = Severity.WARNING
    alternatives: ClassVar[tuple[str, ...]] = ("a factor that depends on the depth, on purpose",)
    remedies: ClassVar[tuple[str, ...]] = ("add the residual as the other layers of the stack do",)

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per attention whose residual has a factor of its own."""
        suspects = []
        for attention in examination.anatomy.attentions:
            gain = attention.residual_gain
            others = [other.residual_gain for other in peers_of(examination.anatomy, attention)]
            if not attention.residual or gain is None or not others or len(set(others)) > 1:
                continue
            usual = others[0]
            if usual is None or gain == usual or (usual != 1.0 and len(others) < _NEEDED):
                continue
            suspects.append(_suspect(attention, gain, usual, len(others)))
        return suspects


def _suspect(attention: Attention, gain: float, usual: float, n_others: int) -> Suspect:
    layer = f"L{attention.layer}"
    others = f"the {n_others} other layers" if n_others > 1 else "the other layer"
    return Suspect(
        kind="residual_scaled",
        place=attention.site("residual"),
        evidence=(
            Evidence(f"the residual of {layer} is multiplied by {shown(gain)}", "anatomy", gain, usual, True),
            Evidence(f"{others} of its stack multiply it by {shown(usual)}", "anatomy", usual),
        ),
        confidence=0.9,
        source=first_source(attention.residual_step, attention.value_step),
        summary=f"{layer} adds its residual {shown(gain)} times; {others} of its stack add it "
        f"{'as it is' if usual == 1.0 else f'{shown(usual)} times'}.",
    )
