"""Two layers hold each other's weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.diagnosis.rules import Evidence, Examination, Rule, Suspect
from attnscope.diagnosis.rules._evidence import shown
from attnscope.diagnosis.rules._exchange import savings


@dataclass(frozen=True)
class SwappedLayers(Rule):
    """Two layers of a stack hold each other's weights: they run in the wrong order.

    **What it means** Layers of one stack have equal shapes, so weights that are loaded into the wrong one
    fit. Usual causes are names sorted as text (10 before 2), and an off-by-one when a checkpoint is
    converted.

    **Why it matters** Each layer receives states that it was not trained on.

    **Evidence required** Exchanging the two whole layers lowers the loss, on every batch, by more than a
    tenth, and more than any other exchange of layers. It must save twice what
    setting either of them to zero saves, and bring the loss below that of a guess: an overconfident model does
    better with any harm done to it.

    **When it is a false alarm** In an untrained model no exchange matters: not reported.

    **How to confirm** Exchange them in the checkpoint and evaluate.

    **What to try** Sort layers by number, and count them from zero.
    """

    code: ClassVar[str] = "PRJ308"
    needs: ClassVar[tuple[str, ...]] = ("exchanged_blocks", "block_ablation", "label_signal")
    symptom: ClassVar[bool] = True
    alternatives: ClassVar[tuple[str, ...]] = ("the weights of one of the layers were not loaded at all",)
    remedies: ClassVar[tuple[str, ...]] = (
        "sort the layers of the checkpoint by number, not as text",
        "check the numbers that the conversion gives to layers",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """At most one suspect: the best exchange."""
        saving = next(savings(examination, "layers"), None)
        if saving is None:
            return []
        return [
            Suspect(
                kind="swapped_layers",
                place=f"{saving.first}.Q",
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
                summary=f"{saving.first} and {saving.second} are in the wrong order: exchanged, they lower the loss "
                f"by {shown(saving.saved)}.",
                effects=(saving.second, *(f"swapped_*@{name}.*" for name in (saving.first, saving.second))),
                severity=saving.severity,
                score=saving.saved,
            )
        ]
