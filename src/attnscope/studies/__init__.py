"""Study: the replication of one paper. One paper a file; a study may use everything, nothing uses it.

A study makes claims; each has the number expected, its place in the paper, a tolerance, and the number measured.
A claim that does not hold is reported as not holding, with the best explanation found.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any, ClassVar

import torch

SCALES = ("smoke", "small", "paper")
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Claim:
    """One number that a paper (or theory) gives, and what was measured.

    Attributes:
        name: short and unique in its study.
        place: where the paper says so, or `extension` for what it leaves open.
        expected: the number, or the bound, in words (`<= 1.05`, `1.172`).
        tolerance: in words (`10 %`, `exact to 1e-9`).
        measured: the number measured; a mean over seeds when there are several.
        holds: whether it is within tolerance.
        note: seeds, spread, and the best explanation when it does not hold.
    """

    name: str
    place: str
    expected: str
    tolerance: str
    measured: float
    holds: bool
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "name": self.name,
            "place": self.place,
            "expected": self.expected,
            "tolerance": self.tolerance,
            "measured": self.measured,
            "holds": self.holds,
            "note": self.note,
        }


def near(name: str, place: str, expected: float, measured: float, tolerance: float, note: str = "") -> Claim:
    """A claim that `measured` is `expected`, to a relative tolerance."""
    holds = abs(measured - expected) <= tolerance * abs(expected)
    return Claim(name, place, f"{expected:g}", f"{100 * tolerance:g} %", measured, holds, note)


def at_most(name: str, place: str, bound: float, measured: float, note: str = "") -> Claim:
    """A claim that `measured` does not exceed `bound`."""
    return Claim(name, place, f"<= {bound:g}", "bound", measured, bool(measured <= bound), note)


def at_least(name: str, place: str, bound: float, measured: float, note: str = "") -> Claim:
    """A claim that `measured` reaches `bound`."""
    return Claim(name, place, f">= {bound:g}", "bound", measured, bool(measured >= bound), note)


@dataclass(frozen=True)
class Curve:
    """A line of a figure: `reference` marks numbers read from the paper rather than measured."""

    figure: str
    name: str
    x: Sequence[float]
    y: Sequence[float]
    reference: bool = False


@dataclass(frozen=True)
class StudyResult:
    """What a study found.

    Attributes:
        figures: figure name -> (label of x, label of y).
    """

    study: str
    scale: str
    seconds: float
    claims: tuple[Claim, ...]
    curves: tuple[Curve, ...] = ()
    figures: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether every claim holds."""
        return all(claim.holds for claim in self.claims)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types: study, scale, seconds, claims, skipped."""
        return {
            "study": self.study,
            "scale": self.scale,
            "seconds": round(self.seconds, 2),
            "claims": [claim.to_dict() for claim in self.claims],
            "skipped": list(self.skipped),
        }


@dataclass(frozen=True)
class Study(ABC):
    """The replication of one paper; its fields are its settings.

    Class facts:
        title, reference: the paper.
        about: Markdown for the study's page: what is claimed and what is left open.
    """

    title: ClassVar[str]
    reference: ClassVar[str]
    about: ClassVar[str] = ""

    @property
    def name(self) -> str:
        """The study's file name."""
        return type(self).__module__.rpartition(".")[2]

    def run(self, scale: str = "smoke", progress: Progress | None = None, workers: int = 1) -> StudyResult:
        """Measures every claim that the scale covers.

        Args:
            scale: `smoke` (seconds, CI), `small`, or `paper` (all figures, all seeds).
            progress: called with (done, total, what).
            workers: processes that share the parts; the numbers do not depend on it.

        Raises:
            ValueError: an unknown scale, or no worker.
        """
        if scale not in SCALES:
            raise ValueError(f"scale must be one of {', '.join(SCALES)}, found {scale!r}")
        if workers < 1:
            raise ValueError(f"workers must be at least 1, found {workers}")
        started = time.perf_counter()
        parts = self.parts(scale)
        claims: list[Claim] = []
        curves: list[Curve] = []
        figures: dict[str, tuple[str, str]] = {}
        skipped: list[str] = []
        for found in _in_turn(parts, progress) if workers == 1 else _side_by_side(parts, progress, workers):
            claims += found.claims
            curves += found.curves
            figures.update(found.figures)
            skipped += found.skipped
        if progress is not None:
            progress(len(parts), len(parts), "done")
        return StudyResult(
            self.name,
            scale,
            time.perf_counter() - started,
            tuple(claims),
            tuple(curves),
            figures,
            tuple(skipped),
        )

    @abstractmethod
    def parts(self, scale: str) -> list[tuple[str, Callable[[], Part]]]:
        """The study's parts at a scale, each a name and the function that runs it."""


@dataclass
class Part:
    """What one part of a study adds to its result."""

    claims: list[Claim] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    figures: dict[str, tuple[str, str]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)


def _in_turn(parts: Sequence[tuple[str, Callable[[], Part]]], progress: Progress | None) -> Iterator[Part]:
    for index, (what, part) in enumerate(parts):
        if progress is not None:
            progress(index, len(parts), what)
        yield part()


def _side_by_side(
    parts: Sequence[tuple[str, Callable[[], Part]]], progress: Progress | None, workers: int
) -> Iterator[Part]:
    """The parts in their order, run by several processes; the last ones first, as they are the longest."""
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        running = {pool.submit(part): what for what, part in reversed(parts)}
        try:
            for done, future in enumerate(as_completed(running)):
                if progress is not None:
                    progress(done, len(parts), running[future])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        yield from (future.result() for future in reversed(running))
