"""A block is too sharp for its learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect
from attnscope.diagnosis.rules._evidence import by_block, shown

_BEYOND = 2.0  # training at the edge of stability hovers about 1; twice that is no hovering
_MOSTLY = 0.5  # share of trial steps after which the loss is above where it began


@dataclass(frozen=True)
class BeyondStabilityLimit(Rule):
    """The curvature of a block exceeds what its optimiser's steps can follow, so steps overshoot and grow.

    **What it means** Gradient descent with learning rate r is stable up to a top eigenvalue of 2/r; Adam up
    to 38/r of its preconditioned Hessian (at beta1 = 0.9). This block alone is beyond twice its limit.

    **Why it matters** The loss oscillates or spikes, and the block's weights run away.

    **Evidence required** The top eigenvalue of step times Hessian, restricted to the block, is more than
    twice the limit of the optimiser in use, and under the optimiser's own next steps the loss of the batch is
    mostly above where it began. Training at a large batch settles near the limit by itself, and a block before
    a normalisation bends back; both are healthy, and there the loss falls.

    **When it is a false alarm** Before the first steps of a warm-up the optimiser's rate is not yet the one
    in use.

    **How to confirm** Train on with a tenth of the learning rate, and compare the losses.

    **What to try** A smaller learning rate for the block, gradient clipping, a longer warm-up.
    """

    code: ClassVar[str] = "CRV601"
    severity: ClassVar[Severity] = Severity.WARNING
    needs: ClassVar[tuple[str, ...]] = ("preconditioned_top_eigenvalue", "trial_steps")
    alternatives: ClassVar[tuple[str, ...]] = (
        "the learning rate of this block is out of line",
        "the optimiser has not yet seen enough gradients to scale its steps",
    )
    remedies: ClassVar[tuple[str, ...]] = (
        "lower the learning rate of the block, or lengthen the warm-up",
        "clip gradients",
        "normalise queries and keys",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per block beyond twice its limit."""
        reading = examination.reading("preconditioned_top_eigenvalue")
        trial = _rise(examination)
        if trial is None:
            return []
        suspects = []
        for name, share in by_block(reading).items():
            if share <= _BEYOND:
                continue
            suspects.append(
                Suspect(
                    kind="beyond_stability_limit",
                    place=name,
                    evidence=(
                        Evidence(
                            f"the top eigenvalue of step times Hessian is {shown(share)} times the limit in {name}",
                            "preconditioned_top_eigenvalue",
                            share,
                            1.0,
                        ),
                        trial,
                    ),
                    confidence=0.7,
                    score=share,
                    summary=f"{name} is {shown(share)} times as sharp as the optimiser's steps can follow.",
                )
            )
        return suspects


def _rise(examination: Examination) -> Evidence | None:
    """That the loss rises under the optimiser's next steps; None where it falls or was not tried."""
    reading = examination.reading("trial_steps")
    if reading is None or reading.facts.get("rose", 0.0) <= _MOSTLY:
        return None
    first, last = float(reading.facts["first"]), float(reading.facts["last"])
    said = f"under the optimiser's next steps the loss of this batch goes from {shown(first)} to {shown(last)}"
    return Evidence(said, "trial_steps", last, first)
