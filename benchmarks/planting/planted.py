"""What one planted mistake is, and how a diagnosis of it is scored."""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from attnscope.anatomy.blocks import Source
from attnscope.case import Case, default_forward, default_loss
from attnscope.examine import diagnose
from attnscope.findings import Finding

NEAR = 5  # lines; a finding this close to the edited line is called near


@dataclass(frozen=True)
class Truth:
    """What is wrong, where, and what it should be called.

    Attributes:
        rules: kinds of finding that name the mistake rightly.
        places: patterns (`L*.mask`) of blocks and sites that name its place rightly.
        lines: the edited lines; empty when the mistake is in no code.
        losses: before and after, for a mistake made in a trained model that is not trained on.
    """

    rules: tuple[str, ...]
    places: tuple[str, ...]
    lines: tuple[Source, ...] = ()
    losses: tuple[float, float] | None = None


@dataclass(frozen=True)
class Planted:
    """One mistake in one model.

    Attributes:
        kind: the entry of the list of kinds that it belongs to.
        variant: what was done, in a few words.
        model: the model's name.
        make: seed -> the case and its truth.
        effort: the effort of the diagnosis that is asked to find it.
    """

    kind: str
    variant: str
    model: str
    make: Callable[[int], tuple[Case, Truth]]
    effort: str = "standard"

    @property
    def name(self) -> str:
        """Unique among all planted mistakes."""
        return f"{self.kind}/{self.model}/{self.variant}".replace(" ", "-")


@dataclass
class Row:
    """What the diagnosis said about one planted mistake."""

    kind: str
    variant: str
    model: str
    rank: int | None = None
    named_place: str = ""
    place: bool | None = None
    line: str = "-"
    others: list[str] = field(default_factory=list)
    error: str = ""
    seconds: float = 0.0
    losses: tuple[float, float] | None = None

    @property
    def found(self) -> bool:
        """Whether a finding of the right kind is there, as a warning or graver."""
        return self.rank is not None


def examined(planted: Planted, seed: int = 0) -> Row:
    """Plants, diagnoses and scores; an exception is part of the answer."""
    row = Row(planted.kind, planted.variant, planted.model)
    try:
        case, truth = planted.make(seed)
        start = time.perf_counter()
        row.losses = truth.losses
        diagnosis = diagnose(case, effort=planted.effort)
        row.seconds = time.perf_counter() - start
    except Exception as error:  # a crash of the diagnosis is a result, too
        row.error = f"{type(error).__name__}: {error}"
        return row
    scored(row, diagnosis.at_least("warning"), truth)
    return row


@torch.no_grad()
def loss_of(case: Case) -> float:
    """The mean loss over the case's batches, in eval mode."""
    case.model.eval()
    forward, loss = case.forward or default_forward, case.loss or default_loss
    losses = [float(loss(forward(case.model, batch), batch)) for batch in case.batches]
    return round(sum(losses) / len(losses), 4)


def scored(row: Row, findings: tuple[Finding, ...], truth: Truth) -> None:
    """Fills in rank, place and line from the first finding of the right kind; the rest are `others`."""
    right = [number for number, finding in enumerate(findings) if finding.kind in truth.rules]
    row.others = [f"{item.code} {item.kind} {item.block_or_site}" for item in findings if item.kind not in truth.rules]
    if not right:
        return
    row.rank = right[0] + 1
    best = max((findings[number] for number in right), key=lambda item: _placed(item, truth))
    row.named_place = best.block_or_site
    row.place = _placed(best, truth)
    if truth.lines:
        row.line = _line(best.source, truth.lines)


def _placed(finding: Finding, truth: Truth) -> bool:
    return any(fnmatch.fnmatchcase(finding.block_or_site, pattern) for pattern in truth.places)


def _line(source: Source | None, lines: tuple[Source, ...]) -> str:
    """`exact`, `near` or `no`."""
    if source is None:
        return "no"
    same_file = [line for line in lines if line.file == source.file]
    if any(line.line == source.line for line in same_file):
        return "exact"
    return "near" if any(abs(line.line - source.line) <= NEAR for line in same_file) else "no"


def plain(row: Row) -> dict[str, Any]:
    """For JSON."""
    return {"found": row.found, **row.__dict__}
