"""Findings as an order of places: the gravest and most certain first, as the diagnosis ranked them."""

from __future__ import annotations

from collections.abc import Sequence

from attnscope.bench.row import Named
from attnscope.findings import Severity


def graver(findings: Sequence[Named]) -> tuple[Named, ...]:
    """Those that say that something is wrong: warnings and errors."""
    return tuple(finding for finding in findings if rank(finding) < Severity.NOTE.rank)


def rank(finding: Named) -> int:
    """0 is the gravest."""
    return Severity(finding.severity).rank


def suspicion_of(findings: Sequence[Named]) -> float:
    """Between 0 and 3: the severity of the gravest finding, then its confidence as the rule states it."""
    found = graver(findings)
    return certainty(found, [finding.confidence for finding in found])


def order_of(findings: Sequence[Named]) -> dict[str, float]:
    """Place -> 1 for the first finding, 1/2 for the second and so on, as the diagnosis ranked them."""
    found: dict[str, float] = {}
    for position, finding in enumerate(findings):
        found.setdefault(finding.place, 1.0 / (1 + position))
    return found


def kind_of(findings: Sequence[Named]) -> str:
    """The kind of the first that says that something is wrong; empty when there is none."""
    found = graver(findings)
    return found[0].kind if found else ""


def ordered(findings: Sequence[Named], confidences: Sequence[float]) -> dict[str, float]:
    """Place -> its best finding's confidence, halved for each finding that comes before: by severity, confidence."""
    found: dict[str, float] = {}
    for position, index in enumerate(_ranking(findings, confidences)):
        place = findings[index].place
        found[place] = max(found.get(place, 0.0), confidences[index] * 0.5**position)
    return found


def certainty(findings: Sequence[Named], confidences: Sequence[float]) -> float:
    """How sure it is that anything is wrong: the severity of the gravest finding, then its confidence."""
    if not findings:
        return 0.0
    return max(
        (Severity.NOTE.rank - rank(finding)) + 0.999 * confidence
        for finding, confidence in zip(findings, confidences, strict=True)
    )


def first_kind(findings: Sequence[Named], confidences: Sequence[float]) -> str:
    """The kind of the first of them; empty when there is none."""
    return findings[_ranking(findings, confidences)[0]].kind if findings else ""


def _ranking(findings: Sequence[Named], confidences: Sequence[float]) -> list[int]:
    return sorted(range(len(findings)), key=lambda i: (rank(findings[i]), -round(confidences[i], 3), i))
