"""Neurons of a feed-forward network are switched off whatever their input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect


@dataclass(frozen=True)
class NeuronsDropped(Rule):
    """Neurons of a feed-forward network are zero whatever their input: something masks them behind the activation.

    **What it means** The first map gives them positive sums, which every usual activation lets through, and the
    second map gets exactly zero in their place on every token: a dropout mask that is never drawn anew, a mask of
    pruning that was left on, a slice that is too short.

    **Why it matters** Their rows in the first map and columns in the second get no gradient and never train.

    **Evidence required** A neuron is exactly zero on every token of the batch while its sum is positive on several,
    and the other neurons let positive sums through.

    **When it is a false alarm** Neurons that are pruned by a mask on purpose. Dead ReLUs (no positive sum), dropout
    that is drawn anew and activations that keep the largest few are not reported.

    **How to confirm** Look at the gradient of those rows: exactly zero on every batch.

    **What to try** Look at what stands between the activation and the second map.
    """

    code: ClassVar[str] = "PRJ312"
    severity: ClassVar[Severity] = Severity.WARNING
    needs: ClassVar[tuple[str, ...]] = ("silent_neurons",)
    alternatives: ClassVar[tuple[str, ...]] = ("the neurons were pruned by a mask on purpose",)
    remedies: ClassVar[tuple[str, ...]] = (
        "draw the dropout mask anew in each step, and turn it off in eval mode",
        "remove the mask, or the neurons with it",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per network."""
        reading = examination.reading("silent_neurons")
        return [] if reading is None else [_suspect(item) for item in reading.facts.get("silent", ())]


def _suspect(item: Mapping[str, Any]) -> Suspect:
    first, second = (str(name) for name in item["blocks"])
    said = (
        f"{item['count']} of {item['of']} neurons of the feed-forward network of L{item['layer']} are exactly zero on "
        "every token, although their sums are positive"
    )
    shown = ", ".join(map(str, item["neurons"])) + (", ..." if item["count"] > len(item["neurons"]) else "")
    return Suspect(
        kind="neurons_dropped",
        place=first,
        evidence=(Evidence(f"{said} (numbers {shown})", "silent_neurons", float(item["count"]), 0.0, True),),
        confidence=0.9,
        summary=f"{said}: they are masked behind the activation.",
        effects=(second,) if second != first else (),
    )
