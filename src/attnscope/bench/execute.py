"""Runs one bench case: plants the mistake, trains the subject with it, looks, and returns the row."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from attnscope import catalogue
from attnscope.bench.controls import Control
from attnscope.bench.measure import measured
from attnscope.bench.plan import BenchCase
from attnscope.bench.row import CONTROL, FAULT, Row
from attnscope.bench.subjects import Subject
from attnscope.case import Case
from attnscope.faults import Fault, FaultError

N_LOSSES = 50  # losses of the training that a row keeps


def executed(bench: BenchCase) -> Row:
    """The row of one case. Whatever goes wrong is part of the row, never an exception.

    Sets torch to one thread: cases run side by side.
    """
    torch.set_num_threads(1)
    try:
        subject: Subject = catalogue.load("subjects", bench.subject)(seed=bench.seed)
        row = Row(
            key=bench.key, subject=bench.subject, model=subject.model, task=subject.task, arm=bench.arm,
            change=bench.change, seed=bench.seed, moment=bench.moment, where=bench.where,
            layer=bench.layer if bench.where else None, strength=bench.strength if bench.arm == FAULT else None,
            step=round(subject.steps * bench.moment), provenance=_provenance(),
        )  # fmt: skip
    except Exception as error:
        return Row(
            bench.key, bench.subject, "", "", bench.arm, bench.change, seed=bench.seed, status="failed",
            why=_told(error),
        )  # fmt: skip
    try:
        return _looked_at(bench, subject, row)
    except FaultError as error:
        return replace(row, status="not applicable", why=str(error))
    except Exception as error:
        return replace(row, status="failed", why=_told(error))


def prepared(bench: BenchCase) -> tuple[Subject, Case, Row]:
    """The trained subject of a case, as it is looked at, and what the row says of it so far.

    Raises:
        FaultError: the fault or control does not apply.
    """
    subject: Subject = catalogue.load("subjects", bench.subject)(seed=bench.seed)
    row = Row(bench.key, bench.subject, subject.model, subject.task, bench.arm, bench.change)
    return (subject, *_trained(bench, subject, row))


def _trained(bench: BenchCase, subject: Subject, row: Row) -> tuple[Case, Row]:
    control: Control | None = None
    if bench.arm == CONTROL:
        control = catalogue.load("controls", bench.change)(seed=bench.seed)
    if control is not None and control.after_training:
        case, row = _healthy_twin(subject, bench.moment, row)
        case = control.applied(case)
        judged = subject.judged(case)
        return case, replace(row, quality=judged.quality, held_out_loss=judged.loss)
    case = subject.case()
    if bench.arm == FAULT:
        fault: Fault = catalogue.load("faults", bench.change)(
            strength=bench.strength, layer=bench.layer, seed=bench.seed
        )
        label = fault.label(case)
        row = replace(
            row, places=label.places, recognised_as=fault.recognised_as, visibility=label.visibility, ids=fault.ids
        )
        case = fault.inject(case)
    elif control is not None:
        case = control.applied(case)
    return _after_training(subject, case, bench.moment, row)


def _after_training(subject: Subject, case: Case, moment: float, row: Row) -> tuple[Case, Row]:
    start = {name: value.detach().clone() for name, value in case.model.named_parameters()}
    began = time.perf_counter()
    losses = subject.trained(case, steps=round(subject.steps * moment))
    case.start = start
    tail = losses[-max(1, len(losses) // 10) :]
    picked = np.unique(np.linspace(0, len(losses) - 1, N_LOSSES).round().astype(int)).tolist() if losses else []
    judged = subject.judged(case)
    row = replace(
        row, quality=judged.quality, held_out_loss=judged.loss, loss=float(np.mean(tail)) if losses else None,
        losses=tuple(losses[index] for index in picked), cost={"training": time.perf_counter() - began},
    )  # fmt: skip
    return case, row


_twin: dict[tuple[Subject, float], tuple[Case, Row]] = {}


def _healthy_twin(subject: Subject, moment: float, row: Row) -> tuple[Case, Row]:
    """The trained healthy case that a control rewrites; the last one is kept, as many controls follow each other."""
    key = (subject, moment)
    if key not in _twin:
        _twin.clear()
        _twin[key] = _after_training(subject, subject.case(), moment, row)
    case, seen = _twin[key]
    return case, replace(row, quality=seen.quality, loss=seen.loss, losses=seen.losses, cost=dict(seen.cost))


def _looked_at(bench: BenchCase, subject: Subject, row: Row) -> Row:
    case, row = _trained(bench, subject, row)
    seen = measured(case)
    blocks = seen.anatomy.blocks
    return replace(
        row,
        blocks=tuple(block.name for block in blocks),
        roles=tuple(block.role.value for block in blocks),
        layers=tuple(-1 if block.layer is None else block.layer for block in blocks),
        sizes=tuple(block.numel for block in blocks),
        sites=seen.sites,
        block_values=seen.block_values,
        layer_values=seen.layer_values,
        head_values=seen.head_values,
        pair_values=seen.pair_values,
        findings=seen.findings,
        cost={**row.cost, **seen.cost},
        gradient_seconds=seen.gradient_seconds,
        diagnosis_seconds=seen.diagnosis.seconds,
    )


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


@cache
def _provenance() -> dict[str, Any]:
    return {"attnscope": version("attnscope"), "torch": torch.__version__}
