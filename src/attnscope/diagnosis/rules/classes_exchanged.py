"""Classes that are read in another order than they were trained in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import Any, ClassVar

import numpy as np

from attnscope.anatomy.blocks import Anatomy, Role
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect
from attnscope.diagnosis.rules._evidence import shown
from attnscope.readings import Reading

_BY_CHANCE = 1e-4  # for the order between the modes, which leaves a fourth of the distance at most besides
_BY_CHANCE_IN_LABELS = 1e-6
_LEFT = 0.25


@dataclass(frozen=True)
class ClassesExchanged(Rule):
    """The scores of the classes are read in another order than the model was trained in.

    **What it means** What the model says about one class stands in the place of another. In eval mode only: a wrapper
    that reorders outputs for deployment has another table than training. In both modes: the mapping from labels to
    numbers is another checkpoint's.

    **Why it matters** The model is right and every answer is wrong; with two classes it is worse than guessing.

    **Evidence required** Another order of the classes fits better than none. Between the modes: the order is found on
    every other example; on the rest, it brings the scores of eval mode nearer to those of train mode than none (a sign
    test, 1e-4: dropout moves scores either way) and leaves at most a fourth of the squared distance. In the labels:
    the order is found on half of the examples, and on the others it beats the order as it is, and what the frequencies
    of classes give by chance (binomial, 1e-6).

    **When it is a false alarm** Labels of the batches that are coded in another way than those of training.

    **How to confirm** Print the confusion matrix: one heavy entry in each row, off the diagonal.

    **What to try** Compare `id2label` of the checkpoint with that of the data; look for what reorders logits.
    """

    code: ClassVar[str] = "DAT704"
    severity: ClassVar[Severity] = Severity.WARNING
    needs: ClassVar[tuple[str, ...]] = ("class_confusion",)
    alternatives: ClassVar[tuple[str, ...]] = ("the labels of these batches are coded in another way than in training",)
    remedies: ClassVar[tuple[str, ...]] = (
        "compare the mapping of labels (id2label) of the checkpoint with that of the data",
        "look for what reorders logits in eval mode",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """At most one suspect."""
        reading = examination.reading("class_confusion")
        if reading is None:
            return []
        evidence = _between_modes(reading.facts.get("modes"))
        modes = evidence is not None
        if evidence is None:
            evidence = _in_labels(reading)
        if evidence is None:
            return []
        where = "in eval mode than in train mode" if modes else "than the labels have"
        return [
            Suspect(
                kind="classes_exchanged",
                place=_place(examination.anatomy),
                evidence=(evidence, _accuracy(reading)),
                confidence=0.95 if modes else 0.8,
                summary=f"The scores of the classes stand in another order {where}.",
                effects=("labels_without_signal@*",),
            )
        ]


def _place(anatomy: Anatomy) -> str:
    """What makes the scores: the last classifier, or the table of tokens that it shares."""
    for role in (Role.CLASSIFIER, Role.EMBEDDING):
        found = [block.name for block in anatomy.blocks if block.role is role]
        if found:
            return found[-1] if role is Role.CLASSIFIER else found[0]
    return "model"


def _between_modes(modes: dict[str, Any] | None) -> Evidence | None:
    if not modes or list(modes["order"]) == list(range(len(modes["order"]))):
        return None
    nearer, tested, left = int(modes["nearer"]), int(modes["tested"]), float(modes["left"])
    if left > _LEFT or _tail(nearer, tested, 0.5) > _BY_CHANCE:
        return None
    return Evidence(
        f"on {nearer} of {tested} examples that were not used to find it, the order {_told(modes['order'])} brings the "
        f"scores of eval mode nearer to those of train mode; it leaves {shown(100 * left)} % of the distance",
        "class_confusion",
        left,
        1.0,
    )


def _in_labels(reading: Reading) -> Evidence | None:
    odd = np.asarray(reading.facts["odd"], dtype=float)
    order, again = reading.facts["orders"]
    moved = [row for row, column in enumerate(order) if row != column]
    if not moved or order != again:
        return None
    rows = odd[moved]
    hits, same = int(sum(odd[row, order[row]] for row in moved)), int(sum(odd[row, row] for row in moved))
    shares = rows.sum(0) / max(rows.sum(), 1)
    by_chance = float(sum(rows[at].sum() * shares[order[row]] for at, row in enumerate(moved)) / max(rows.sum(), 1))
    beaten = max(_tail(hits, hits + same, 0.5), _tail(hits, int(rows.sum()), by_chance))
    if beaten > _BY_CHANCE_IN_LABELS:
        return None
    return Evidence(
        f"on examples that were not used to find it, the order {_told(order)} fits {hits} labels of the exchanged "
        f"classes, and the order as it is {same}",
        "class_confusion",
        float(hits),
        float(same),
    )


def _accuracy(reading: Reading) -> Evidence:
    total = max(float(reading.values.sum()), 1.0)
    right = float(np.trace(reading.values)) / total
    return Evidence(f"{shown(100 * right)} % of the predictions are right", "class_confusion", right)


def _told(order: Sequence[int]) -> str:
    moved = [f"{row} as {column}" for row, column in enumerate(order) if row != column]
    return ", ".join(moved[:6]) + (", ..." if len(moved) > 6 else "")


def _tail(hits: int, tries: int, chance: float) -> float:
    """The probability of at least so many hits."""
    return sum(comb(tries, count) * chance**count * (1 - chance) ** (tries - count) for count in range(hits, tries + 1))
