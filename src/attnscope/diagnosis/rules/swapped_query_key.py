"""Queries and keys hold each other's weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.diagnosis.rules import Evidence, Examination, Rule, Suspect
from attnscope.diagnosis.rules._evidence import shown
from attnscope.diagnosis.rules._exchange import savings


@dataclass(frozen=True)
class SwappedQueryKey(Rule):
    """The query and key projections of a layer are exchanged, so every score matrix is transposed.

    **What it means** What a token looks for and what it offers have changed places. Usual causes are a wrong
    mapping of names when weights are converted, and a wrong order when one fused matrix is split.

    **Why it matters** The model works, somewhat; every token attends to those that should attend to it.

    **Evidence required** Exchanging the two lowers the loss, on every batch, by more than a tenth and by 0.05
    at least. It must save twice what setting either of them to zero saves, and bring the loss below that of a
    guess: an overconfident model does better with any harm done to it.

    **When it is a false alarm** The model has been trained on after the exchange; then it no longer lowers
    the loss and nothing is reported.

    **How to confirm** Exchange them in the checkpoint and evaluate.

    **What to try** Correct the mapping of names, or the order of the split.
    """

    code: ClassVar[str] = "PRJ305"
    needs: ClassVar[tuple[str, ...]] = ("exchanged_blocks", "block_ablation", "label_signal")
    symptom: ClassVar[bool] = True
    alternatives: ClassVar[tuple[str, ...]] = (
        "the scores are transposed, or the softmax runs over the queries",
    )
    remedies: ClassVar[tuple[str, ...]] = (
        "exchange the two in the mapping of names that loads the weights",
        "check the order in which a fused projection is split: query, key, value",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per layer."""
        return [
            Suspect(
                kind="swapped_query_key",
                place=saving.first,
                evidence=(
                    Evidence(
                        f"with {saving.first} and {saving.second} exchanged the loss falls from "
                        f"{shown(saving.loss)} to {shown(saving.loss - saving.saved)}",
                        "exchanged_blocks",
                        saving.loss - saving.saved,
                        saving.loss,
                    ),
                ),
                confidence=0.85,
                summary=f"Queries and keys are exchanged: with {saving.first} and {saving.second} in each other's "
                f"place the loss falls by {shown(saving.saved)}.",
                effects=(saving.second, f"swapped_projections@{saving.first.partition('.')[0]}.*"),
                severity=saving.severity,
                score=saving.saved,
            )
            for saving in savings(examination, "roles")
            if (saving.first[-1], saving.second[-1]) == ("Q", "K")
        ]
