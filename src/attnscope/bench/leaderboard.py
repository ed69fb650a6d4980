"""The leaderboard: every ranker's detection and localisation, per visibility class, with intervals over subjects."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from attnscope import catalogue
from attnscope.bench.banks import SETTINGS
from attnscope.bench.folds import SPLITS, Fold, family
from attnscope.bench.kill import KILLED, SURVIVED, UNTESTED
from attnscope.bench.learned import Learned
from attnscope.bench.metrics import auprc, auroc, chance, gradients, macro_f1, threshold
from attnscope.bench.row import FAULT, Row
from attnscope.bench.scores import COMBINATION, Bench, Scored, fold_of
from attnscope.bench.statistics import Interval, clustered

HEADLINE = "subject"  # the split that the leaderboard is made with
RATES = (0.01, 0.05)
CLASSES = ("all", "C", "U", "A", "I", "B")
CLASS_WORDS = {
    "all": "all classes",
    "C": "curvature or gradient at one moment",
    "U": "updates or the trajectory",
    "A": "statistics of attention",
    "I": "an exact identity",
    "B": "time or memory",
}
STRATA = (KILLED, SURVIVED, UNTESTED)
CHANCE = "(chance)"


@dataclass
class Results:
    """All scores of a benchmark: what every table is made from.

    Attributes:
        bench: the rows.
        scores: (setting, ranker) -> one score per row; the combination's by the headline split.
        combined: (setting, split) -> the combination's, by each split.
        taught: (setting, split, fold) -> what the other folds taught.
    """

    bench: Bench
    scores: dict[tuple[str, str], list[Scored]]
    combined: dict[tuple[str, str], list[Scored]]
    taught: dict[tuple[str, str, str], Learned]
    _final: dict[tuple[str, str], list[Scored]] = field(default_factory=dict, repr=False)
    _bounds: dict[tuple[str, str], Bounds] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, rows: Sequence[Row], progress: Callable[[int, int, str], None] | None = None) -> Results:
        """Scores every row with every ranker in both settings."""
        bench = Bench.of(rows)
        names = catalogue.names("rankers")
        found = cls(bench, {}, {}, {})
        total = len(SETTINGS) * (len(names) - 1 + len(SPLITS))
        for setting in SETTINGS:
            for name in names:
                if name != COMBINATION:
                    found.scores[setting, name] = bench.scored(name, setting)
                    _tell(progress, found, total, f"{setting}: {name}")
            for split in SPLITS:
                scored, taught = bench.combined(setting, split)
                found.combined[setting, split] = scored
                found.taught.update({(setting, split, fold): learned for fold, learned in taught.items()})
                _tell(progress, found, total, f"{setting}: combination, held out by {split}")
            found.scores[setting, COMBINATION] = found.combined[setting, HEADLINE]
        return found

    def of_split(self, setting: str, name: str, split: str) -> list[Scored]:
        """A ranker's scores when thresholds, and what is learnt, come from the other folds of this split."""
        return self.combined[setting, split] if name == COMBINATION else self.scores[setting, name]

    def final(self, setting: str, name: str) -> list[Scored]:
        """A ranker's scores of the last looks."""
        if (setting, name) not in self._final:
            self._final[setting, name] = [item for item in self.scores[setting, name] if self.bench.final(item.row)]
        return self._final[setting, name]

    def bounds(self, setting: str, name: str) -> Bounds:
        """A ranker's thresholds under the headline split."""
        if (setting, name) not in self._bounds:
            self._bounds[setting, name] = Bounds.of(self.final(setting, name), HEADLINE)
        return self._bounds[setting, name]


def entries(results: Results, setting: str, stratum: str) -> list[dict[str, Any]]:
    """One entry per visibility class and ranker, and one per class for guessing; classes without rows are absent."""
    found = []
    for visibility in CLASSES:
        made = []
        for name in catalogue.names("rankers"):
            entry = _entry(results, setting, stratum, visibility, name)
            if entry is not None:
                made.append(entry)
        if made:
            made.sort(key=lambda entry: -_sortable(entry["metrics"]["mrr"]["value"]))
            found += [*made, _chance(results, setting, stratum, visibility)]
    return found


def split_entries(results: Results, setting: str, name: str) -> list[dict[str, Any]]:
    """One ranker's detection and localisation of killed faults under every split."""
    found = []
    for split in SPLITS:
        scored = [item for item in results.of_split(setting, name, split) if results.bench.final(item.row)]
        positives = [item for item in scored if results.bench.stratum(item.row) == KILLED]
        if positives:
            detected = _detection(scored, positives, Bounds.of(scored, split))
            metrics = {**detected, **_localisation(positives, ("place",))}
            found.append(
                {"setting": setting, "split": split, "ranker": name, "rows": len(positives), "metrics": metrics}
            )
    return found


def interval(found: Interval) -> dict[str, Any]:
    """An interval as plain data."""
    return {
        "value": found.value, "low": found.low, "high": found.high, "clusters": found.clusters, "rows": found.rows,
    }  # fmt: skip


def _entry(results: Results, setting: str, stratum: str, visibility: str, name: str) -> dict[str, Any] | None:
    scored = results.final(setting, name)
    positives = [
        item
        for item in scored
        if results.bench.stratum(item.row) == stratum and visibility in ("all", item.row.visibility)
    ]
    if not positives:
        return None
    ranker = catalogue.load("rankers", name)
    costs = [_cost(item.row, ranker.lenses) for item in positives]
    costs = [cost for cost in costs if not math.isnan(cost)]
    metrics = {
        **_detection(scored, positives, results.bounds(setting, name)),
        **_localisation(positives, ("place", "block", "site", "layer", "head")),
        "kind_f1": interval(_kind(scored, positives)),
    }
    return {
        "setting": setting, "stratum": stratum, "class": visibility, "ranker": name, "family": ranker.family,
        "rows": len(positives), "subjects": len({item.row.subject for item in positives}),
        "cost": float(np.median(costs)) if costs else math.nan, "metrics": metrics,
    }  # fmt: skip


def _detection(scored: Sequence[Scored], positives: Sequence[Scored], bounds: Bounds) -> dict[str, Any]:
    """AUROC and AUPRC within each subject; recall at thresholds that come from the other folds."""
    negatives = [item for item in scored if item.row.arm != FAULT]
    curves: dict[str, list[float]] = {"auroc": [], "auprc": []}
    subjects = sorted({item.row.subject for item in positives})
    for subject in subjects:
        high = [item.suspicion for item in positives if item.row.subject == subject]
        low = [item.suspicion for item in negatives if item.row.subject == subject]
        curves["auroc"].append(auroc(high, low))
        curves["auprc"].append(auprc(high, low))
    found = {name: interval(clustered(values, subjects)) for name, values in curves.items()}
    for rate in RATES:
        percent = f"{100 * rate:g}"
        found[f"recall_{percent}"] = interval(_share_above(positives, bounds.held, bounds.of_fold[rate]))
        found[f"false_alarms_{percent}"] = bounds.false_alarms[rate]
    return found


@dataclass(frozen=True)
class Bounds:
    """Thresholds of one ranker under one split.

    Attributes:
        held: row key -> the fold in which it is held out.
        of_fold: rate -> fold -> the threshold that healthy rows and controls of the other folds set.
        false_alarms: rate -> the share of held-out healthy rows and controls above it.
    """

    held: dict[str, Fold]
    of_fold: dict[float, dict[str, float]]
    false_alarms: dict[float, dict[str, Any]]

    @classmethod
    def of(cls, scored: Sequence[Scored], split: str) -> Bounds:
        """From the last looks."""
        held = fold_of([item.row for item in scored], split)
        calm = {
            fold.name: [scored[index].standard for index in fold.train if scored[index].row.arm != FAULT]
            for fold in {fold.name: fold for fold in held.values()}.values()
        }
        bounds = {
            rate: {name: threshold(values, rate) if values else math.nan for name, values in calm.items()}
            for rate in RATES
        }
        negatives = [item for item in scored if item.row.arm != FAULT]
        alarms = {rate: interval(_share_above(negatives, held, bounds[rate])) for rate in RATES}
        return cls(held, bounds, alarms)


def _share_above(items: Sequence[Scored], held: dict[str, Fold], bounds: dict[str, float]) -> Interval:
    values = []
    for item in items:
        bound = bounds[held[item.row.key].name]
        values.append(math.nan if math.isnan(bound) else float(item.standard > bound))
    return clustered(values, [item.row.subject for item in items])


def _localisation(positives: Sequence[Scored], levels: Sequence[str]) -> dict[str, Any]:
    found = {}
    for level in levels:
        told = [(item.located.get(level), item.row.subject) for item in positives]
        known = [(place, subject) for place, subject in told if place is not None]
        subjects = [subject for _, subject in known]
        prefix = "" if level == "place" else f"{level}_"
        columns = {
            f"{prefix}top_1": [place.tops[0] for place, _ in known],
            f"{prefix}mrr": [place.reciprocal for place, _ in known],
        }
        if level == "place":
            columns["top_3"] = [place.tops[1] for place, _ in known]
            columns["top_5"] = [place.tops[2] for place, _ in known]
            columns["exam"] = [place.exam for place, _ in known]
        found.update({name: interval(clustered(values, subjects)) for name, values in columns.items()})
    return found


def _kind(scored: Sequence[Scored], positives: Sequence[Scored]) -> Interval:
    """Macro-F1 over the kinds of the faults, within each subject; NaN for rankers that name none."""
    if not any(item.kind for item in scored):
        return Interval(math.nan, math.nan, math.nan, 0, 0)
    subjects = sorted({item.row.subject for item in positives})
    values = []
    for subject in subjects:
        pairs = [true_and_said(item) for item in positives if item.row.subject == subject]
        calm = [true_and_said(item) for item in scored if item.row.subject == subject and item.row.arm != FAULT]
        values.append(macro_f1([*pairs, *calm], {true for true, _ in pairs}))
    return clustered(values, subjects)


def true_and_said(item: Scored) -> tuple[str, str]:
    """The class of a row, and what it was said to be: any kind that names the fault rightly is its class."""
    if item.row.arm != FAULT:
        return "", item.kind
    true = family(item.row)
    return true, true if item.kind in item.row.recognised_as else item.kind


def _chance(results: Results, setting: str, stratum: str, visibility: str) -> dict[str, Any]:
    """What an order drawn at random gives on the same rows: expected, not drawn."""
    scored = results.final(setting, "random_order")
    positives = [
        Scored(
            item.row, 0.0, "",
            {level: None if found is None else chance(found.n, found.right) for level, found in item.located.items()},
        )
        for item in scored
        if results.bench.stratum(item.row) == stratum and visibility in ("all", item.row.visibility)
    ]  # fmt: skip
    calm = [item for item in scored if item.row.arm != FAULT]
    subjects = sorted({item.row.subject for item in positives})
    share = []
    for subject in subjects:
        high = sum(item.row.subject == subject for item in positives)
        low = sum(item.row.subject == subject for item in calm)
        share.append(high / (high + low))
    nothing = interval(Interval(math.nan, math.nan, math.nan, 0, 0))
    metrics = {
        "auroc": interval(clustered([0.5] * len(subjects), subjects)),
        "auprc": interval(clustered(share, subjects)),
        **{f"recall_{100 * rate:g}": interval(clustered([rate] * len(subjects), subjects)) for rate in RATES},
        **{f"false_alarms_{100 * rate:g}": interval(clustered([rate] * len(subjects), subjects)) for rate in RATES},
        **_localisation(positives, ("place", "block", "site", "layer", "head")),
        "kind_f1": nothing,
    }
    return {
        "setting": setting, "stratum": stratum, "class": visibility, "ranker": CHANCE, "family": "chance",
        "rows": len(positives), "subjects": len(subjects), "cost": 0.0, "metrics": metrics,
    }  # fmt: skip


def _cost(row: Row, names: Sequence[str]) -> float:
    cost = dict(row.cost)
    if row.diagnosis_seconds is not None:
        cost["diagnosis"] = row.diagnosis_seconds
    return gradients(cost, names, row.gradient_seconds)


def _sortable(value: float) -> float:
    return -1.0 if math.isnan(value) else value


def _tell(progress: Callable[[int, int, str], None] | None, found: Results, total: int, said: str) -> None:
    if progress is not None:
        progress(len(found.scores) + len(found.combined), total, said)

