"""An example's output depends on the other examples of its batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.diagnosis.rules import Evidence, Examination, Rule, Suspect
from attnscope.diagnosis.rules._evidence import first_source, shown


@dataclass(frozen=True)
class ExamplesMixed(Rule):
    """The attention runs across the examples of a batch: batch and position axes are exchanged.

    **What it means** One score matrix relates tokens of different examples. The usual cause is
    `nn.MultiheadAttention` without `batch_first=True`, or a reshape that folds batch and positions together.

    **Why it matters** What the model says of a text depends on its neighbours in the batch, and at batch size
    one it attends to nothing but itself.

    **Evidence required** The score matrix spans several examples (trace) and, where it can be tested, changing
    another example of the batch changes this one's output; or that change is seen alone, first in an attention.

    **When it is a false alarm** Attention between samples on purpose (SAINT, in-context learners on tables).

    **How to confirm** Replace the other examples of the batch by zeros and compare the first output.

    **What to try** `batch_first=True`, or a transpose of the first two axes before and after.
    """

    code: ClassVar[str] = "MSK105"
    needs: ClassVar[tuple[str, ...]] = ("other_example",)
    alternatives: ClassVar[tuple[str, ...]] = (
        "attention between samples, on purpose",
        "the softmax runs over the batch",
        "batch statistics that are not frozen in eval mode",
    )
    remedies: ClassVar[tuple[str, ...]] = (
        "give nn.MultiheadAttention batch_first=True, or transpose to [position, batch, width]",
        "reshape to [batch, position, head, width] before transposing",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per attention whose scores span several examples."""
        suspects = []
        for attention in examination.anatomy.attentions:
            if attention.head_layout != "examples mixed" or _refuted(examination):
                continue
            layer = f"L{attention.layer}"
            suspects.append(
                Suspect(
                    kind="examples_mixed",
                    place=attention.site("heads"),
                    evidence=(
                        Evidence(
                            f"the score matrix of {layer} is {attention.n_queries} by {attention.n_keys} and spans "
                            "several examples of the batch",
                            "anatomy",
                            exact=True,
                        ),
                    ),
                    confidence=0.95,
                    source=first_source(attention.score_step, attention.softmax),
                    summary=f"{layer} attends across the examples of the batch: its batch and position axes are "
                    "exchanged.",
                    effects=(
                        f"*@{layer}.mask",
                        f"positions_missing@{layer}.*",
                        f"heads_mixed@{layer}.*",
                        "examples_mixed@model",
                        "future_leak@*",
                        "padding_attended@*",
                        "positions_*@*",
                        "wrong_cache_position@*",
                    ),
                )
            )
        return suspects or _moved(examination)


def _moved(examination: Examination) -> list[Suspect]:
    """Where no score matrix was seen to span examples, but one example's output moves with another's input."""
    reading = examination.reading("other_example")
    if reading is None or not reading.facts.get("output_violated") or reading.facts.get("outside_attention"):
        return []
    layer = reading.facts.get("first_layer")
    first = next((item for item in examination.anatomy.attentions if item.layer == layer), None)
    if first is None:
        return []
    moved = float(reading.facts.get("moved", float("nan")))
    said = f"changing the other examples of the batch moves an example's output by {shown(moved)}"
    return [
        Suspect(
            kind="examples_mixed",
            place=f"L{first.layer}.heads",
            evidence=(Evidence(said, "other_example", moved, 0.0, True),),
            confidence=0.9,
            source=first_source(first.score_step, first.softmax),
            summary=f"Examples see each other: {said}, first in L{first.layer}.",
            effects=("future_leak@*", "padding_attended@*", "positions_*@*", "wrong_cache_position@*"),
        )
    ]


def _refuted(examination: Examination) -> bool:
    """Whether the intervention was made and nothing moved."""
    reading = examination.reading("other_example")
    return reading is not None and not reading.facts.get("violated", True)
