"""Labels from which nothing can be learnt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect
from attnscope.diagnosis.rules._evidence import shown
from attnscope.readings import Reading

_ENOUGH_STEPS = 100  # an optimiser that has taken fewer has proved nothing
_NEAR_CHANCE = 0.9  # of the loss of a uniform guess


@dataclass(frozen=True)
class LabelsWithoutSignal(Rule):
    """The labels carry no signal: they are all the same, all ignored, or have nothing to do with the inputs.

    **What it means** Constant or ignored labels teach nothing. Labels that were shuffled against their inputs
    look normal, and the trained model answers no better with them than with any others.

    **Why it matters** Training runs, the loss moves a little, and nothing is learnt.

    **Evidence required** All labels of the batches are equal or ignored; or the optimiser
    has taken at least 100 steps, its loss is that of a
    guess, and shuffling the labels does not raise it.

    **When it is a false alarm** A hard task on which nothing has been learnt yet, or a model that cannot learn
    for another reason: what rests on an exact fact goes first. Untrained models and fresh
    classifiers on a pre-trained body are not reported.

    **How to confirm** Train on ten examples: a sound model learns them by heart, and new ones stay at chance.

    **What to try** Look at ten examples beside their labels; check the order in which both are loaded.
    """

    code: ClassVar[str] = "DAT702"
    severity: ClassVar[Severity] = Severity.WARNING
    needs: ClassVar[tuple[str, ...]] = ("label_signal", "loss_at_start", "optimizer_coverage")
    symptom: ClassVar[bool] = True
    alternatives: ClassVar[tuple[str, ...]] = (
        "the task is hard and nothing has been learnt yet",
        "the input does not reach the output",
    )
    remedies: ClassVar[tuple[str, ...]] = (
        "print ten examples beside their labels",
        "check that inputs and labels are shuffled together",
        "check the label that the loss ignores (-100)",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """At most one suspect."""
        reading = examination.reading("label_signal")
        if reading is None:
            return []
        count = int(reading.facts.get("n_labels", 0))
        if reading.facts.get("all_ignored"):
            return [_exact("all labels are ignored by the loss", 0)]
        if reading.facts.get("constant"):
            return [_exact(f"all {count} labels are the same", count)]
        why = _shuffled(examination, reading)
        return [why] if why is not None else []


def _exact(what: str, count: int) -> Suspect:
    return Suspect(
        kind="labels_without_signal",
        place="data",
        evidence=(Evidence(what, "label_signal", float(count), None, True),),
        confidence=0.95 if count != 0 else 1.0,
        severity=Severity.ERROR if count == 0 or count >= 16 else Severity.WARNING,
        summary=f"The labels carry no signal: {what}.",
        effects=("cut_gradient@*",) if count == 0 else (),
    )


def _shuffled(examination: Examination, reading: Reading) -> Suspect | None:
    """Labels that a trained model cannot tell from any others."""
    start = examination.reading("loss_at_start")
    if reading.stderr is None or start is None or not _is_trained(examination) or _mostly_frozen(examination):
        return None
    rises, errors = reading.values.ravel(), reading.stderr.ravel()
    losses = start.values.ravel()
    if (
        losses.size == 0
        or float(losses.min()) < _NEAR_CHANCE
        or np.any(rises > 2 * errors + 0.01 * np.abs(losses))
    ):
        return None
    rise, loss = float(rises.mean()), float(losses.mean())
    return Suspect(
        kind="labels_without_signal",
        place="data",
        evidence=(
            Evidence(f"shuffling the labels moves the loss by {shown(rise)} only", "label_signal", rise, 0.0),
            Evidence(f"the loss is {shown(loss)} of that of a uniform guess", "loss_at_start", loss, 1.0),
        ),
        confidence=0.6,
        summary=f"The labels seem to have nothing to do with the inputs: after training, any other order of them "
        f"gives the same loss (it moves by {shown(rise)}), or the model cannot learn.",
    )


def _is_trained(examination: Examination) -> bool:
    """Whether the optimiser has taken enough steps on this model."""
    coverage = examination.reading("optimizer_coverage")
    steps = coverage.facts.get("steps") if coverage is not None else None
    return steps is not None and int(steps) >= _ENOUGH_STEPS


def _mostly_frozen(examination: Examination) -> bool:
    """Whether most of the model cannot learn; then that it has not says nothing of the labels."""
    blocks = examination.anatomy.blocks
    return 2 * sum(block.numel for block in blocks if not block.trainable) > sum(
        block.numel for block in blocks
    )
