"""Queries and keys have moved apart in a training that cannot do so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect
from attnscope.diagnosis.rules._evidence import by_layer, layer_fact, shown
from attnscope.diagnosis.rules._healthy import healthy

_EXPLAINED = 2.0  # drifts within twice what the finite steps add are the steps'


@dataclass(frozen=True)
class BalanceMoves(Rule):
    """The balance of queries and keys has moved since training began, although plain descent cannot move it.

    **What it means** Scores depend on W_Q and W_K through their product alone, so gradient descent on any loss
    moves W_K W_K^T and W_Q W_Q^T of a head alike: their difference stays (under weight decay it falls as
    exp(-2 lambda t)). Here one moved without the other, so part of what moved it was not this loss's gradient.

    **Why it matters** Something else writes to the weights during training: a second optimiser, a penalty or a
    constraint on one side, an average or a checkpoint copied in, a gradient that was clipped per parameter.

    **Evidence required** The weights at the start (`Case(start=...)`), plain gradient descent without momentum, the
    same rate for both sides, gradients that satisfy the identity now; and a drift, in the median of the layer's
    heads, nearer to one-sided movement (1) than to the largest of healthy trainings, and beyond twice what the
    finite steps explain.

    **When it is a false alarm** Steps at the edge of stability add up to a drift of their own; a momentum or
    another rate that was used earlier and is no longer in the optimiser.

    **How to confirm** Train one epoch from the start with the optimiser alone, and compare W_K W_K^T - W_Q W_Q^T.

    **What to try** Look for writes to .data or under no_grad, second optimisers, clipping and penalties that name
    one of the two projections.
    """

    code: ClassVar[str] = "GRD506"
    severity: ClassVar[Severity] = Severity.WARNING
    needs: ClassVar[tuple[str, ...]] = ("balance_drift",)
    alternatives: ClassVar[tuple[str, ...]] = (
        "steps at the edge of stability",
        "another optimiser or rate earlier in the training",
        "a penalty on queries or keys, on purpose",
    )
    remedies: ClassVar[tuple[str, ...]] = (
        "look for writes to these weights outside optimizer.step()",
        "check that no second optimiser, penalty or constraint holds one of the two projections",
        "clip the norm of all gradients together, not of each parameter",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per attention whose balance drifted."""
        reading = examination.reading("balance_drift")
        bound = (1 + healthy("balance_drift").highest) / 2
        suspects = []
        for layer, drifts in by_layer(reading).items():
            drift = float(np.median(drifts))
            allowed = [float(value) for value in layer_fact(reading, "allowance", layer) or ()]
            known = [value for value in allowed if np.isfinite(value)]
            explained = float(np.median(known)) if known else 0.0
            if drift <= max(bound, _EXPLAINED * explained):
                continue
            attention = next(item for item in examination.anatomy.attentions if item.layer == layer)
            sides = (attention.blocks.get("query", f"L{layer}.Q"), attention.blocks.get("key", f"L{layer}.K"))
            steps = f"; {shown(explained)} is what the finite steps explain" if known else ""
            suspects.append(
                Suspect(
                    kind="balance_moves",
                    place=sides[1],
                    evidence=(
                        Evidence(
                            f"the balance of L{layer} drifted by {shown(drift)} of how far its queries and keys "
                            f"moved (1 is one side alone){steps}",
                            "balance_drift",
                            drift,
                            bound,
                        ),
                    ),
                    confidence=0.75,
                    summary=f"Queries and keys of L{layer} moved apart since training began, which the gradient of "
                    "no loss does: something else moved one of them.",
                    effects=sides[:1],
                )
            )
        return suspects
