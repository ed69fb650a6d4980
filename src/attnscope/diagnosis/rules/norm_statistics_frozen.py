"""A batch normalisation whose running statistics do not follow its input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, ClassVar

from attnscope.anatomy.blocks import Anatomy
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect
from attnscope.diagnosis.rules._evidence import shown

_APART = 0.05  # nats a channel; sound norms are below 0.03 when the start's weight is gone
_FAR = 0.1  # nats a channel: statistics that never moved are wrong by more, unless the input is normal already
_SLOWER = 5.0  # times below the momentum of the other norms
_REMAINS = 0.05  # weight of the start in the running statistics, below which it does no harm
_MOST = 0.5
_CHANCE = 4.0  # times 1 / examples, the expected divergence of an estimate from what it estimates


@dataclass(frozen=True)
class NormStatisticsFrozen(Rule):
    """A batch normalisation normalises with statistics that its input does not have: they never followed it.

    **What it means** In train mode the layer uses the batch, in eval mode running averages that a momentum (PyTorch:
    the share of the new batch) of zero, or of far too little, has left near the mean 0 and variance 1 of the start. A
    momentum copied from a library that counts the other way round does it: 0.99 there is 0.01 here.

    **Why it matters** The model is well in train mode and another one in eval mode.

    **Evidence required** The layer has counted forward passes in train mode, and its statistics are exactly 0 and 1
    (an error); or the start still makes up (1 - momentum)^passes, more than 5 %, of them, at a momentum at least 5
    times below that of the other norms (a warning; a note when all norms share it and the start makes up more than
    half). And the divergence of the input from the statistics is more than 0.05 nats a channel (sound norms end below
    0.03) and four times what so few examples leave by chance.

    **When it is a false alarm** Training has only begun; with the momentum of the other norms that is not reported.
    Statistics that are frozen on purpose fit their input.

    **How to confirm** Compare the loss in train and in eval mode without dropout.

    **What to try** Set the momentum back to 0.1, and run some batches through the model in train mode.
    """

    code: ClassVar[str] = "GRD513"
    severity: ClassVar[Severity] = Severity.WARNING
    needs: ClassVar[tuple[str, ...]] = ("norm_inputs",)
    alternatives: ClassVar[tuple[str, ...]] = ("training has only begun, with a small momentum on purpose",)
    remedies: ClassVar[tuple[str, ...]] = (
        "set the momentum to 0.1; other libraries call the complement so",
        "run some batches through the model in train mode to estimate the statistics (torch.optim.swa_utils.update_bn)",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per norm whose statistics stand still."""
        reading = examination.reading("norm_inputs")
        running: Mapping[str, Any] = {} if reading is None else reading.facts.get("running", {})
        found = (_suspect(name, told, running, examination.anatomy) for name, told in running.items())
        return [suspect for suspect in found if suspect is not None]


def _suspect(name: str, told: Mapping[str, Any], running: Mapping[str, Any], anatomy: Anatomy) -> Suspect | None:
    passes, momentum, apart = int(told["updates"] or 0), told["momentum"], float(told["running"])
    if passes < 1 or not apart > max(_APART, _CHANCE / max(int(told["examples"]), 1)):
        return None
    measured = Evidence(
        f"its input is {shown(apart)} nats a channel from the running statistics", "norm_inputs", apart, 0.0
    )
    if told["untouched"]:
        if apart < _FAR:
            return None
        fact = f"after {passes} forward passes in train mode the running mean is exactly 0 and the variance exactly 1"
        return _made(name, running, fact, measured, Severity.ERROR, 0.98)
    if momentum is None or not 0 <= momentum < 1:
        return None
    remains = (1 - momentum) ** passes
    others = [item["momentum"] for other, item in running.items() if other != name and item["momentum"]]
    slower = bool(others) and momentum * _SLOWER <= median(others)
    if remains < _REMAINS or not (slower or (remains > _MOST and passes >= 100)):
        return None
    beside = f", {shown(median(others))} in the other norms" if slower else ""
    fact = (
        f"with a momentum of {shown(momentum)}{beside}, what it started with still makes up "
        f"{shown(100 * remains)} % of the statistics after {passes} forward passes"
    )
    return _made(name, running, fact, measured, Severity.WARNING if slower else Severity.NOTE, 0.85 if slower else 0.5)


def _made(
    name: str, running: Mapping[str, Any], fact: str, measured: Evidence, severity: Severity, confidence: float
) -> Suspect:
    return Suspect(
        kind="norm_statistics_frozen",
        place=name,
        evidence=(Evidence(fact, "norm_inputs", None, None, True), measured),
        confidence=confidence,
        severity=severity,
        score=float(measured.value or 0.0),
        summary=f"The running statistics of {name}, which eval mode uses, do not follow its input.",
        effects=("labels_without_signal@data", *(f"norm_gain@{other}" for other in running if other != name)),
    )
