"""Kill: whether a fault changed the task at all, decided by a paired, one-sided, exact test over seeds.

A mutant is killed when its quality is below that of its healthy twin of the same seed in a way that chance
explains at most once in twenty times: of all 2^n ways to flip the signs of the n differences, at most a share of
0.05 gives a mean as large. With six seeds the smallest p is 1/64, with five 1/32; with four it is 1/16, so fewer
than five seeds can never kill. Where each seed has another place and strength (the small size), no single cell has
seeds enough: its runs are tested together with the other cells of the same fault in the same subject.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from attnscope.bench.row import FAULT, HEALTHY, Row

ALPHA = 0.05
MOST_FLIPPED = 16  # seeds whose flips are all counted; more are flipped at random
KILLED, SURVIVED, UNTESTED = "killed", "survived", "untested"
Mutant = tuple[str, str, str, int, float]


@dataclass(frozen=True)
class Verdict:
    """What became of one fault in one subject at one place and strength.

    Attributes:
        mutant: subject, change, where, layer (-1: none), strength.
        n: pairs of a faulty and a healthy run.
        fall: mean of how much lower the quality is than the healthy twin's.
        p: of the test that it is lower; `p_better`: that it is higher (a leak of the future does that).
        verdict: `killed`, `survived` or `untested` (too few seeds for any p to be small enough).
        pooled: whether `n`, `fall` and `p` are those of all places and strengths of the fault in the subject.
    """

    mutant: Mutant
    n: int
    fall: float
    p: float
    p_better: float
    verdict: str
    pooled: bool = False

    @property
    def improved(self) -> bool:
        """Whether the task got easier: a survivor all the same, and told as one."""
        return self.verdict == SURVIVED and self.p_better <= ALPHA


def mutant_of(row: Row) -> Mutant:
    """Names what the rows of one fault, place and strength share over seeds and moments."""
    layer = -1 if row.layer is None else row.layer
    return row.subject, row.change, row.where, layer, 1.0 if row.strength is None else row.strength


def verdicts(rows: Sequence[Row], *, alpha: float = ALPHA) -> dict[Mutant, Verdict]:
    """One verdict per mutant, from the last moment at which it was looked at.

    Args:
        rows: all rows; a row without quality, or whose healthy twin is missing, is passed over. A quality that is
            not a number counts as zero: the model answers nothing.
        alpha: the level of the test.
    """
    healthy = {
        (row.subject, row.seed, row.moment): row.quality
        for row in rows
        if row.arm == HEALTHY and row.status == "ok" and row.quality is not None
    }
    last: dict[tuple[Mutant, int], Row] = {}
    for row in rows:
        if row.arm == FAULT and row.status == "ok":
            key = mutant_of(row), row.seed
            if key not in last or row.moment > last[key].moment:
                last[key] = row
    falls: dict[Mutant, list[float]] = {}
    for (mutant, seed), row in last.items():
        twin = healthy.get((row.subject, seed, row.moment))
        found = falls.setdefault(mutant, [])
        if row.quality is not None and twin is not None:
            found.append(_number(twin) - _number(row.quality))
    return {mutant: _of_cell_or_pool(mutant, falls, alpha) for mutant in falls}


def _of_cell_or_pool(mutant: Mutant, falls: Mapping[Mutant, list[float]], alpha: float) -> Verdict:
    alone = _verdict(mutant, falls[mutant], alpha)
    if alone.verdict != UNTESTED:
        return alone
    together = [value for other, found in falls.items() if other[:2] == mutant[:2] for value in found]
    return replace(_verdict(mutant, together, alpha), pooled=len(together) > alone.n)


def sign_flip(differences: npt.ArrayLike, *, seed: int = 0, draws: int = 100_000) -> float:
    """The one-sided p of a mean at least as large, over all ways to flip the signs; exact up to sixteen.

    Args:
        differences: one per pair.
        seed: of the random flips when there are more than sixteen pairs.
        draws: how many such flips.

    Returns:
        the share of flips, the observed one among them; 1 when there are no pairs.
    """
    values = np.asarray(differences, dtype=float)
    n = values.size
    if n == 0:
        return 1.0
    tolerance = 1e-12 * float(np.abs(values).sum())  # two sums of the same numbers may differ by rounding
    if n <= MOST_FLIPPED:
        sums = np.zeros(1)
        for value in values.tolist():
            sums = np.concatenate([sums + value, sums - value])
        return float((sums >= values.sum() - tolerance).mean())
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(draws, n))
    reached = int((signs @ values >= values.sum() - tolerance).sum())
    return (1 + reached) / (1 + draws)


def _verdict(mutant: Mutant, falls: Sequence[float], alpha: float) -> Verdict:
    n = len(falls)
    if n == 0:
        return Verdict(mutant, 0, math.nan, 1.0, 1.0, UNTESTED)
    values = np.array(falls)
    p, p_better = sign_flip(values), sign_flip(-values)
    verdict = KILLED if p <= alpha else UNTESTED if 0.5**n > alpha else SURVIVED
    return Verdict(mutant, n, float(values.mean()), p, p_better, verdict)


def _number(quality: float) -> float:
    return quality if math.isfinite(quality) else 0.0
