"""Two projections of a layer hold each other's weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.diagnosis.rules import Evidence, Examination, Rule, Suspect
from attnscope.diagnosis.rules._evidence import shown
from attnscope.diagnosis.rules._exchange import savings


@dataclass(frozen=True)
class SwappedProjections(Rule):
    """Two projections of a layer, such as value and output, hold each other's weights.

    **What it means** Shapes fit because both are square, and nothing complains. Usual causes are a wrong
    mapping of names when weights are converted, and a wrong order when one fused matrix is split.

    **Why it matters** The layer computes something that it was never trained to compute.

    **Evidence required** Exchanging the two lowers the loss, on every batch, by more than a tenth and by 0.05
    at least, and more than any other exchange in the layer. It must save twice what
    setting either of them to zero saves, and bring the loss below that of a guess: an overconfident model does
    better with any harm done to it.

    **When it is a false alarm** In an untrained model no exchange matters: not reported.

    **How to confirm** Exchange them in the checkpoint and evaluate.

    **What to try** Correct the mapping of names, or the order of the split.
    """

    code: ClassVar[str] = "PRJ307"
    needs: ClassVar[tuple[str, ...]] = ("exchanged_blocks", "block_ablation", "label_signal")
    symptom: ClassVar[bool] = True
    alternatives: ClassVar[tuple[str, ...]] = ("the weights of this layer were not loaded at all",)
    remedies: ClassVar[tuple[str, ...]] = (
        "exchange the two in the mapping of names that loads the weights",
        "check the order in which a fused projection is split",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per layer: its best exchange, unless that is the one of query and key."""
        suspects = []
        seen: set[str] = set()
        for saving in savings(examination, "roles"):
            layer = saving.first.partition(".")[0]
            if layer in seen:
                continue
            seen.add(layer)
            if (saving.first[-1], saving.second[-1]) == ("Q", "K"):
                continue
            suspects.append(
                Suspect(
                    kind="swapped_projections",
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
                    summary=f"{saving.first} and {saving.second} are exchanged: put in each other's place they "
                    f"lower the loss by {shown(saving.saved)}.",
                    effects=(saving.second, f"swapped_query_key@{layer}.*"),
                    severity=saving.severity,
                    score=saving.saved,
                )
            )
        return suspects
