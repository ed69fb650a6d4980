"""One layer drops its pattern at another rate than its peers."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

from attnscope.anatomy.blocks import Attention, DropoutStep
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect
from attnscope.diagnosis.rules._evidence import first_source, peers_of, shown

_SAME = 1e-6  # rates are written down, not measured; this is the rounding of a product of them


@dataclass(frozen=True)
class DropoutMismatch(Rule):
    """One layer drops more or less of its pattern in training than the layers built like it.

    **What it means** Two dropouts act behind its softmax where the other layers have one, or one where they have none
    (a warning); or its one dropout has another rate (a note).

    **Why it matters** Dropout applied twice, in the attention and again around it, trains the layer at a rate that
    nobody set: 0.1 and 0.3 keep 63 % of the weights.

    **Evidence required** The dropouts that the trace sees between softmax and values, with their rates; all peers of
    the same stack agree. A rate that grows with depth is a plan and not reported.

    **When it is a false alarm** A layer that is regularised more on purpose.

    **How to confirm** In train mode with all values set to one, the context's entries vary from seed to seed by
    sqrt(rate / keep); compare layers.

    **What to try** Keep one dropout, at the rate of the configuration.
    """

    code: ClassVar[str] = "SFT211"
    severity: ClassVar[Severity] = Severity.WARNING
    alternatives: ClassVar[tuple[str, ...]] = ("a layer that is regularised more on purpose",)
    remedies: ClassVar[tuple[str, ...]] = (
        "keep one dropout behind the softmax",
        "read the rate from the configuration in every layer",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per attention whose dropout is out of line."""
        found = (_suspect(examination, attention) for attention in examination.anatomy.attentions)
        return [suspect for suspect in found if suspect is not None]


def _drops(attention: Attention) -> list[DropoutStep] | None:
    """What drops weights of the pattern; None when a rate is unknown."""
    steps = [step for step in attention.dropout if step.where == "pattern" and step.rate != 0.0]
    return None if any(step.rate is None for step in steps) else steps


def _dropped(steps: list[DropoutStep]) -> float:
    """The share of the weights that is dropped in all."""
    return 1 - prod(1 - (step.rate or 0.0) for step in steps)


def _told(steps: list[DropoutStep]) -> str:
    if len(steps) > 1:
        return f"{len(steps)} dropouts ({' and '.join(shown(step.rate or 0.0) for step in steps)}) act"
    return f"a dropout of {shown(_dropped(steps))} acts" if steps else "no dropout acts"


def _suspect(examination: Examination, attention: Attention) -> Suspect | None:
    own = _drops(attention)
    peers = [(peer, _drops(peer)) for peer in peers_of(examination.anatomy, attention)]
    if own is None or not peers or any(steps is None for _, steps in peers):
        return None
    theirs = [steps or [] for _, steps in peers]
    rates = [_dropped(steps) for steps in theirs]
    if max(rates) - min(rates) > _SAME or abs(_dropped(own) - rates[0]) <= _SAME:
        return None
    more_steps = len(own) > max(map(len, theirs))
    if len(peers) == 1 and not more_steps:
        return None  # of two layers with different rates neither is the odd one
    return Suspect(
        kind="dropout_mismatch",
        place=attention.site("dropout"),
        evidence=(
            Evidence(
                f"{_told(own)} behind the softmax: {shown(100 * _dropped(own))} % of the weights are dropped, "
                f"{shown(100 * rates[0])} % in each of {len(peers)} layers like it",
                "anatomy",
                _dropped(own),
                rates[0],
                True,
            ),
        ),
        confidence=0.9 if more_steps else 0.6,
        severity=Severity.WARNING if more_steps else Severity.NOTE,
        source=first_source(*own),
        score=abs(_dropped(own) - rates[0]),
        summary=f"L{attention.layer} drops {shown(100 * _dropped(own))} % of its pattern in training, "
        f"the layers like it {shown(100 * rates[0])} %.",
    )
