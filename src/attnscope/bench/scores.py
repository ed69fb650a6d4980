"""Scores: every ranker on every row, in both settings; what the combination learns, it learns on the other folds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from attnscope import catalogue
from attnscope.bench.banks import UNPAIRED, BankKey, Banks
from attnscope.bench.folds import Fold, folds
from attnscope.bench.kill import SURVIVED, Mutant, Verdict, mutant_of, verdicts
from attnscope.bench.learned import Learned
from attnscope.bench.learning import learn
from attnscope.bench.metrics import Located, located
from attnscope.bench.places import LEVELS, at_level, candidates, truth
from attnscope.bench.rankers import Ranker
from attnscope.bench.rankers._families import UsualFamilies
from attnscope.bench.rankers.combination import Combination
from attnscope.bench.row import FAULT, HEALTHY, Row

COMBINATION = "combination"
NORMAL, LEAST_SPREAD = 1.4826, 1e-6


@dataclass(frozen=True)
class Scored:
    """What one ranker says of one row.

    Attributes:
        row: the row.
        suspicion: as the ranker gives it; comparable within a subject.
        standard: the same in spreads of the suspicion of healthy rows of the subject, so that a threshold may come
            from other subjects; NaN where there are none.
        kind: what it names, or empty.
        located: level -> how well it orders the places; faults at the last moment only.
        first: the place that it puts first, or empty.
    """

    row: Row
    suspicion: float
    kind: str
    located: Mapping[str, Located | None] = field(default_factory=dict)
    first: str = ""
    standard: float = math.nan


@dataclass
class Bench:
    """All rows of a benchmark, and what the scores need to know about them as a whole.

    Attributes:
        rows: those that were run through (`status` is `ok`).
        verdicts: what became of each mutant.
        last: subject -> the latest moment that it was looked at.
    """

    rows: tuple[Row, ...]
    verdicts: dict[Mutant, Verdict]
    last: dict[str, float]
    _levels: dict[str, _Levels] = field(default_factory=dict, repr=False)
    _strata: dict[str, str] = field(default_factory=dict, repr=False)
    _usual: dict[tuple[str, BankKey], UsualFamilies] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Bench:
        """From all rows that are stored."""
        usable = tuple(row for row in rows if row.status == "ok")
        last: dict[str, float] = {}
        for row in usable:
            last[row.subject] = max(last.get(row.subject, 0.0), row.moment)
        return cls(usable, verdicts(usable), last)

    def final(self, row: Row) -> bool:
        """Whether this is the last look at its run."""
        return row.moment == self.last[row.subject]

    def stratum(self, row: Row) -> str:
        """`killed`, `survived` or `untested` for a fault; empty for other rows."""
        if row.arm != FAULT:
            return ""
        if row.key not in self._strata:
            self._strata[row.key] = self.verdicts[mutant_of(row)].verdict
        return self._strata[row.key]

    def levels(self, row: Row) -> _Levels:
        """The row's candidates at every level; worked out once."""
        if row.key not in self._levels:
            self._levels[row.key] = _Levels(row)
        return self._levels[row.key]

    def scored(self, name: str, setting: str) -> list[Scored]:
        """One ranker that learns nothing from labels, on every row that the setting speaks of."""
        banks, fitted = Banks.of(self.rows, setting), dict[BankKey, Ranker]()
        found = []
        for row in self._of_setting(banks, name):
            key = banks.key(row)
            if key not in fitted:
                fitted[key] = catalogue.load("rankers", name)()
                fitted[key].fit(banks.bank(row))
            found.append(self._scored(fitted[key], row))
        return _standardised(found)

    def combined(self, setting: str, split: str) -> tuple[list[Scored], dict[str, Learned]]:
        """The combination on every row, each time with what the other folds taught; and that, fold by fold.

        Where kinds are held out, findings that name the row's own kind are withheld, too: rules were written with
        kinds in mind, and this split asks how a kind fares that nobody had in mind.
        """
        banks = Banks.of(self.rows, setting)
        rows = list(self._of_setting(banks, COMBINATION))
        found: dict[str, Scored] = {}
        taught: dict[str, Learned] = {}
        for fold in folds(rows, split):
            learned = taught[fold.name] = self.taught(setting, banks, [rows[index] for index in fold.train], fold.name)
            for index in fold.test:
                ranker = Combination(learned=learned, usual=self.usual(setting, banks, rows[index]))
                asked = _of_unknown_kind(rows[index]) if split == "kind" else rows[index]
                found[rows[index].key] = self._scored(ranker, asked)
        return _standardised([found[row.key] for row in rows]), taught

    def taught(self, setting: str, banks: Banks, rows: Sequence[Row], held_out: str) -> Learned:
        """What faults that may have changed the task, healthy rows and controls teach, at the last moment.

        Confidences are calibrated on the faults that changed nothing, too: a finding that names one is right.
        """
        told = [row for row in rows if self.final(row)]
        lessons = [row for row in told if self.stratum(row) != SURVIVED]
        about = {"setting": setting, "held out": held_out, "rows": len(lessons), "rows told of": len(told)}
        return learn([(row, self.usual(setting, banks, row)) for row in lessons], about, told)

    def usual(self, setting: str, banks: Banks, row: Row) -> UsualFamilies:
        """What is usual for a row's subject, from its bank; worked out once."""
        key = setting, banks.key(row)
        if key not in self._usual:
            self._usual[key] = UsualFamilies.of(banks.bank(row))
        return self._usual[key]

    def _of_setting(self, banks: Banks, name: str) -> Iterator[Row]:
        """Rows that the setting speaks of; without healthy rows of the same moment only findings say anything."""
        needs_bank = catalogue.load("rankers", name).family not in ("exact", "diagnosis")
        for row in self.rows:
            if banks.speaks_of(row) and (self.final(row) or not needs_bank or banks.bank(row)):
                yield row

    def _scored(self, ranker: Ranker, row: Row) -> Scored:
        if row.arm != FAULT or not self.final(row):
            return Scored(row, ranker.suspicion(row), ranker.kind(row))
        order = ranker.order(row)
        levels = self.levels(row)
        by_level = {level: levels.located(level, order) for level in LEVELS}
        return Scored(row, ranker.suspicion(row), ranker.kind(row), by_level, _first(order))


class _Levels:
    """The candidates and the truth of one row at every level, and where each place belongs: rankers share them."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self.candidates = {level: candidates(row, level) for level in LEVELS}
        self.truth = {level: truth(row, level) for level in LEVELS}
        self._homes: dict[str, dict[str, str | None]] = {level: {} for level in LEVELS}

    def located(self, level: str, order: Mapping[str, float]) -> Located | None:
        if not self.truth[level]:
            return None
        scores = dict.fromkeys(self.candidates[level], -math.inf)
        homes = self._homes[level]
        new = [place for place in order if place not in homes]
        if new:
            homes.update(zip(new, at_level(self.row, level, new), strict=True))
        for place, score in order.items():
            home = homes[place]
            if home in scores and score > scores[home]:
                scores[home] = score
        return located(scores, self.truth[level])


def _of_unknown_kind(row: Row) -> Row:
    """The row as a diagnosis without a rule for its kind would leave it."""
    return replace(row, findings=tuple(item for item in row.findings if item.kind not in row.recognised_as))


def _first(order: Mapping[str, float]) -> str:
    told = {place: score for place, score in order.items() if not math.isnan(score)}
    return max(told, key=lambda place: told[place]) if told else ""


def _standardised(found: Sequence[Scored]) -> list[Scored]:
    """Suspicions in spreads of healthy rows of the same subject and moment and of other seeds."""
    healthy: dict[tuple[str, float], list[tuple[int, float]]] = {}
    for item in found:
        if item.row.arm == HEALTHY and math.isfinite(item.suspicion):
            healthy.setdefault((item.row.subject, item.row.moment), []).append((item.row.seed, item.suspicion))
    scales: dict[tuple[str, float, int], tuple[float, float]] = {}
    made = []
    for item in found:
        key = item.row.subject, item.row.moment, item.row.seed
        if key not in scales:
            others = np.array([value for seed, value in healthy.get(key[:2], []) if seed != key[2]])
            scales[key] = _scale(others)
        middle, spread = scales[key]
        standard = (item.suspicion - middle) / spread
        made.append(Scored(item.row, item.suspicion, item.kind, item.located, item.first, standard))
    return made


def _scale(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[float, float]:
    if not values.size:
        return 0.0, 1.0  # the paired setting has no healthy rows: twins have the same scale already
    middle = float(np.median(values))
    spread = NORMAL * float(np.median(np.abs(values - middle)))
    if spread < LEAST_SPREAD * max(1.0, abs(middle)):
        spread = float(values.std())
    return middle, spread if spread > LEAST_SPREAD * max(1.0, abs(middle)) else 1.0


def learned_from(rows: Sequence[Row], setting: str = UNPAIRED, about: Mapping[str, str] | None = None) -> Learned:
    """What all rows teach, for use on runs that are not among them; the report never scores these rows with it."""
    bench = Bench.of(rows)
    banks = Banks.of(bench.rows, setting)
    learned = bench.taught(setting, banks, [row for row in bench.rows if banks.speaks_of(row)], "nothing")
    return replace(learned, about={**learned.about, **(about or {})})


def fold_of(rows: Sequence[Row], split: str) -> dict[str, Fold]:
    """Row key -> the fold in which it is held out."""
    return {rows[index].key: fold for fold in folds(rows, split) for index in fold.test}
