"""A block is too sharp for its learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect
from attnscope.diagnosis.rules._evidence import by_block, shown

_BEYOND = 2.0  # training at the edge of stability hovers about 1; twice that is no hovering


@dataclass(frozen=True)
class BeyondStabilityLimit(Rule):
    """The curvature of a block exceeds what its optimiser's steps can follow, so steps overshoot and grow.

    **What it means** Gradient descent with learning rate r is stable up to a top eigenvalue of 2/r; Adam up
    to 38/r of its preconditioned Hessian (at beta1 = 0.9). This block alone is beyond twice its limit.

    **Why it matters** The loss oscillates or spikes, and the block's weights run away.

    **Evidence required** The top eigenvalue of step times Hessian, restricted to the block, is more than
    twice the limit of the optimiser in use. Training at a large batch settles near the limit by itself; that
    is healthy.

    **When it is a false alarm** Before the first steps of a warm-up the optimiser's rate is not yet the one
    in use.

    **How to confirm** Take one step along the block's gradient and look at the loss.

    **What to try** A smaller learning rate for the block, gradient clipping, a longer warm-up.
    """

    code: ClassVar[str] = "CRV601"
    severity: ClassVar[Severity] = Severity.WARNING
    needs: ClassVar[tuple[str, ...]] = ("preconditioned_top_eigenvalue",)
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
                    ),
                    confidence=0.7,
                    score=share,
                    summary=f"{name} is {shown(share)} times as sharp as the optimiser's steps can follow.",
                )
            )
        return suspects
