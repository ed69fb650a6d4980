"""Kill: whether a fault changed the task at all, decided by paired, one-sided, exact tests over seeds.

A mutant is killed when it does worse than its healthy twin of the same seed in a way that chance explains at most
once in twenty times. Two things are asked, each at half that level (Bonferroni): whether held-out quality falls, and
whether held-out loss rises, which still tells where quality cannot (every answer is right, or too few change). Of
all 2^n ways to flip the signs of the n differences, at most that share may give a mean as large. With six seeds the
smallest p is 1/64; with five it is 1/32, which half the level does not reach, so fewer than six seeds can never kill
(five where only quality is known). Where each seed has another place and strength (the small size), no single cell
has seeds enough: its runs are tested together with the other cells of the same fault in the same subject.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from attnscope.bench.row import FAULT, HEALTHY, Row

ALPHA = 0.05
WORST_LOSS = 1e6  # nats; what a loss that is no number, or beyond it, counts as
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
        rise: mean of how much higher the held-out loss is (nats); NaN where it is not known.
        p: the smaller of the two tests' p, doubled (of the one that there is, where the loss is not known).
        p_better: that quality is higher (a leak of the future does that).
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
    rise: float = math.nan

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
        alpha: the level of both tests together.
    """
    healthy = {
        (row.subject, row.seed, row.moment): row
        for row in rows
        if row.arm == HEALTHY and row.status == "ok" and row.quality is not None
    }
    last: dict[tuple[Mutant, int], Row] = {}
    for row in rows:
        if row.arm == FAULT and row.status == "ok":
            key = mutant_of(row), row.seed
            if key not in last or row.moment > last[key].moment:
                last[key] = row
    pairs: dict[Mutant, list[_Pair]] = {}
    for (mutant, seed), row in last.items():
        twin = healthy.get((row.subject, seed, row.moment))
        found = pairs.setdefault(mutant, [])
        if row.quality is not None and twin is not None:
            found.append(_Pair.of(row, twin))
    return {mutant: _of_cell_or_pool(mutant, pairs, alpha) for mutant in pairs}


@dataclass(frozen=True)
class _Pair:
    """How much lower the quality and how much higher the loss is than the healthy twin's; None: not known."""

    fall: float
    rise: float | None

    @classmethod
    def of(cls, row: Row, twin: Row) -> _Pair:
        fall = _quality(twin.quality) - _quality(row.quality)
        if row.held_out_loss is None or twin.held_out_loss is None:
            return cls(fall, None)
        return cls(fall, _loss(row.held_out_loss) - _loss(twin.held_out_loss))


def _of_cell_or_pool(mutant: Mutant, pairs: Mapping[Mutant, list[_Pair]], alpha: float) -> Verdict:
    alone = _verdict(mutant, pairs[mutant], alpha)
    if alone.verdict != UNTESTED:
        return alone
    together = [pair for other, found in pairs.items() if other[:2] == mutant[:2] for pair in found]
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


def _verdict(mutant: Mutant, pairs: Sequence[_Pair], alpha: float) -> Verdict:
    n = len(pairs)
    if n == 0:
        return Verdict(mutant, 0, math.nan, 1.0, 1.0, UNTESTED)
    falls = np.array([pair.fall for pair in pairs])
    rises = np.array([pair.rise for pair in pairs if pair.rise is not None])
    both = len(rises) == n
    p = min(1.0, 2 * min(sign_flip(falls), sign_flip(rises))) if both else sign_flip(falls)
    smallest = (2 if both else 1) * 0.5**n
    verdict = KILLED if p <= alpha else UNTESTED if smallest > alpha else SURVIVED
    rise = float(rises.mean()) if both else math.nan
    return Verdict(mutant, n, float(falls.mean()), p, sign_flip(-falls), verdict, rise=rise)


def _quality(value: float | None) -> float:
    return value if value is not None and math.isfinite(value) else 0.0


def _loss(value: float) -> float:
    return min(value, WORST_LOSS) if not math.isnan(value) else WORST_LOSS
