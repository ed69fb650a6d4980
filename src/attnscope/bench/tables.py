"""The report as plain data: every table and curve, before anything is written."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from attnscope import catalogue
from attnscope.bench import comparisons
from attnscope.bench.banks import SETTINGS, UNPAIRED
from attnscope.bench.calibration import Claim, calibration_error, reliability
from attnscope.bench.folds import family
from attnscope.bench.kill import KILLED
from attnscope.bench.leaderboard import (
    HEADLINE,
    STRATA,
    Results,
    entries,
    split_entries,
    true_and_said,
)
from attnscope.bench.learning import claims
from attnscope.bench.metrics import above, latency, macro_f1, threshold
from attnscope.bench.row import CONTROL, FAULT, HEALTHY, Row
from attnscope.bench.scores import COMBINATION, Bench, Scored, fold_of
from attnscope.findings import Severity

SCHEMA = 1
FINDERS = ("diagnosis", COMBINATION)
ALARMED = (
    "top_eigenvalue", "trace", "gradient_norm", "gradient_z", "relative_trace", "coupling", COMBINATION,
)  # fmt: skip
SPLIT_RANKERS = (COMBINATION, "diagnosis", "exact_identities", "relative_trace", "coupling", "gradient_z")


def tables(
    rows: Sequence[Row],
    about: Mapping[str, Any] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, Any]:
    """Everything that the report says.

    Args:
        rows: of the results file; those that failed or did not apply are counted and passed over.
        about: how they were made.
        progress: told how far it is.
    """
    results = Results.of(rows, progress)
    bench = results.bench
    return {
        "schema": SCHEMA,
        "about": dict(about or {}),
        "counts": _counts(rows, bench),
        "missing": _missing(rows, bench),
        "mutants": _mutants(bench),
        "leaderboard": [
            entry for setting in SETTINGS for stratum in STRATA for entry in entries(results, setting, stratum)
        ],
        "splits": [
            entry for setting in SETTINGS for name in SPLIT_RANKERS for entry in split_entries(results, setting, name)
        ],
        "hessian": [entry for setting in SETTINGS for entry in comparisons.by_class(results, setting)],
        "hessian_by_fault": [entry for setting in SETTINGS for entry in comparisons.by_fault(results, setting)],
        "kinds": [kinds(results, name) for name in FINDERS],
        "controls": _controls(results),
        "calibration": _calibration(results),
        "latency": _latency(results),
        "misses": _misses(results),
        "learned": {
            f"{setting}, held out by {split}: {fold}": learned.to_dict()
            for (setting, split, fold), learned in results.taught.items()
            if split == HEADLINE
        },
    }


def _counts(rows: Sequence[Row], bench: Bench) -> dict[str, Any]:
    strata = Counter(bench.stratum(row) for row in bench.rows if row.arm == FAULT and bench.final(row))
    return {
        "rows": len(rows),
        "status": dict(Counter(row.status for row in rows)),
        "arms": dict(Counter(row.arm for row in bench.rows)),
        "subjects": {
            subject: {
                "rows": sum(row.subject == subject for row in bench.rows),
                "faults": len({row.change for row in bench.rows if row.subject == subject and row.arm == FAULT}),
                "controls": len({row.change for row in bench.rows if row.subject == subject and row.arm == CONTROL}),
                "healthy_quality": _mean(
                    [row.quality for row in bench.rows
                     if row.subject == subject and row.arm == HEALTHY and bench.final(row)]
                ),
            }
            for subject in sorted({row.subject for row in bench.rows})
        },
        "strata": dict(strata),
    }  # fmt: skip


def _missing(rows: Sequence[Row], bench: Bench) -> list[str]:
    """What a reader would look for and not find, in sentences."""
    said = []
    if not rows:
        return ["There are no rows."]
    for status, count in Counter(row.status for row in rows if row.status != "ok").items():
        why = Counter(row.why for row in rows if row.status == status).most_common(3)
        said.append(f"{count} rows are {status}: {'; '.join(f'{reason} ({n})' for reason, n in why)}.")
    for arm, name in ((HEALTHY, "healthy rows: nothing can be compared with what is usual"),
                      (CONTROL, "controls: false alarms cannot be told"), (FAULT, "faults")):  # fmt: skip
        if not any(row.arm == arm for row in bench.rows):
            said.append(f"There are no {name}.")
    measured = {lens for row in bench.rows for lens in (*row.block_values, *row.cost)}
    measured |= {"coupling"} if any(row.pair_values for row in bench.rows) else set()
    for name in catalogue.names("rankers"):
        reading = getattr(catalogue.load("rankers", name), "reading", "coupling" if name == "coupling" else "")
        if bench.rows and reading and reading not in measured:
            said.append(f"No row holds {reading}, so {name} says nothing.")
    untested = sum(verdict.verdict == "untested" for verdict in bench.verdicts.values())
    if untested:
        said.append(f"{untested} mutants have fewer than five pairs of seeds and stand apart.")
    nowhere = sum(row.arm == FAULT and not bench.levels(row).truth["place"] for row in bench.rows)
    if nowhere:
        said.append(f"{nowhere} faulty rows name no place that the model has; they count for detection only.")
    if len(bench.last) < 3:
        said.append(f"With {len(bench.last)} subjects there are no intervals: subjects are what is drawn again.")
    return said


def _mutants(bench: Bench) -> list[dict[str, Any]]:
    found = []
    for verdict in bench.verdicts.values():
        subject, change, where, layer, strength = verdict.mutant
        found.append({
            "subject": subject, "fault": change, "where": where, "layer": layer, "strength": strength,
            "seeds": verdict.n, "fall": verdict.fall, "rise": verdict.rise, "p": verdict.p,
            "verdict": verdict.verdict, "improved": verdict.improved,
        })  # fmt: skip
    return found


def kinds(results: Results, name: str) -> dict[str, Any]:
    """How kinds are confused, on killed faults and all that is healthy; unpaired, last looks."""
    scored = [
        item
        for item in results.final(UNPAIRED, name)
        if item.row.arm != FAULT or results.bench.stratum(item.row) == KILLED
    ]
    pairs = [true_and_said(item) for item in scored]
    classes = sorted({true for true, _ in pairs if true})
    cells = Counter(pairs)
    return {
        "ranker": name,
        "macro_f1": macro_f1(pairs, classes),
        "f1": {item: macro_f1(pairs, {item}) for item in classes},
        "cells": [
            {"true": true, "said": said, "count": count}
            for (true, said), count in sorted(cells.items(), key=lambda cell: (-cell[1], cell[0]))
        ],
    }


def _controls(results: Results) -> list[dict[str, Any]]:
    """False alarms per control: findings, and how many rows are above what 5 % of healthy rows reach."""
    scored = {name: results.final(UNPAIRED, name) for name in ALARMED}
    bounds = {
        name: threshold([item.standard for item in items if item.row.arm == HEALTHY], 0.05)
        for name, items in scored.items()
    }
    calm = [item.row for item in scored[COMBINATION] if item.row.arm != FAULT]
    found = []
    for change in sorted({row.change for row in calm}):
        rows = [row for row in calm if row.change == change]
        alarms = {}
        for name, items in scored.items():
            own = [item.standard for item in items if item.row.arm != FAULT and item.row.change == change]
            alarms[name] = above(own, bounds[name])
        kinds_said = Counter(
            finding.kind for row in rows for finding in row.findings if finding.severity == Severity.ERROR.value
        )
        found.append({
            "control": change or "(healthy)",
            "rows": len(rows),
            "errors": sum(_has(row, Severity.ERROR) for row in rows),
            "warnings": sum(_has(row, Severity.WARNING) for row in rows),
            "error_kinds": dict(kinds_said),
            "alarms": alarms,
        })  # fmt: skip
    return found


def _has(row: Row, severity: Severity) -> bool:
    return any(finding.severity == severity.value for finding in row.findings)


def _calibration(results: Results) -> dict[str, Any]:
    """Confidence against precision on held-out subjects, of every finding: as stated, and as learnt on the others."""
    rows = [item.row for item in results.final(UNPAIRED, COMBINATION)]
    held = fold_of([item.row for item in results.of_split(UNPAIRED, COMBINATION, HEADLINE)], HEADLINE)
    told: list[tuple[Claim, float]] = []
    for row in rows:
        learned = results.taught[UNPAIRED, HEADLINE, held[row.key].name].calibration
        told += [(claim, learned.probability(claim.kind, claim.confidence)) for claim in claims(row)]
    if not told:
        return {"findings": 0}
    right = np.array([claim.right for claim, _ in told], dtype=float)
    stated = np.array([claim.confidence for claim, _ in told])
    learnt = np.array([probability for _, probability in told])
    return {
        "findings": len(told),
        "precision": float(right.mean()),
        "stated": {"ece": calibration_error(stated, right), "bins": [asdict(b) for b in reliability(stated, right)]},
        "learnt": {"ece": calibration_error(learnt, right), "bins": [asdict(b) for b in reliability(learnt, right)]},
    }


def _latency(results: Results) -> list[dict[str, Any]]:
    """Steps until a killed fault is first found, for runs that were looked at more than once."""
    found = []
    for name in FINDERS:
        scored = results.scores[UNPAIRED, name]
        bound = threshold([item.standard for item in scored if item.row.arm != FAULT], 0.05)
        runs: dict[tuple[object, int], list[Scored]] = {}
        for item in scored:
            row = item.row
            if row.arm == FAULT and results.bench.stratum(row) == KILLED:
                where = row.subject, row.change, row.layer, row.strength
                runs.setdefault((where, row.seed), []).append(item)
        looked = {key: items for key, items in runs.items() if len(items) > 1}
        by_class: dict[str, list[int | None]] = {}
        for items in looked.values():
            first = latency([(item.row.step, item.standard) for item in items], bound)
            by_class.setdefault(items[0].row.visibility, []).append(first)
        for visibility, steps in sorted(by_class.items()):
            known = [step for step in steps if step is not None]
            found.append({
                "ranker": name, "class": visibility, "runs": len(steps), "found": len(known),
                "median_step": float(np.median(known)) if known else math.nan,
            })  # fmt: skip
    return found


def _misses(results: Results) -> list[dict[str, Any]]:
    """Killed faults that the combination does not find or puts in the wrong place, unpaired, worst first."""
    scored = results.final(UNPAIRED, COMBINATION)
    bounds = results.bounds(UNPAIRED, COMBINATION)
    found = []
    for item in scored:
        if results.bench.stratum(item.row) != KILLED:
            continue
        bound = bounds.of_fold[0.05][bounds.held[item.row.key].name]
        detected = None if math.isnan(bound) else item.standard > bound
        place = item.located.get("place")
        misplaced = place is not None and place.tops[0] < 0.5
        if detected is False or misplaced:
            found.append(_miss(item, detected))
    return sorted(found, key=lambda miss: (miss["fault"], -_number(miss["rank"]), miss["key"]))


def _miss(item: Scored, detected: bool | None) -> dict[str, Any]:
    row, place = item.row, item.located.get("place")
    return {
        "key": row.key, "subject": row.subject, "fault": row.change, "class": row.visibility, "detected": detected,
        "rank": math.nan if place is None else place.rank, "candidates": 0 if place is None else place.n,
        "truth": list(row.places), "first": item.first, "kind": item.kind, "true_kind": family(row),
        "command": f"attnscope bench run --case {row.key}",
    }  # fmt: skip


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return float(np.mean(known)) if known else math.nan


def _number(value: float) -> float:
    return 0.0 if math.isnan(value) else value
