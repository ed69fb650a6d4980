"""Run: what is stored of one training: readings of lenses over steps, in memory or in a folder. No torch.

A folder holds `readings.jsonl`: a first line that says what it is, then one reading a line, only ever appended
to. A kill in the middle of a line costs that line: it is skipped when the run is opened, and cut off before the
next one is appended. A reading of the same lens at the same step replaces the earlier one. `start.safetensors`
beside it, when there, holds the parameters before the first step.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from attnscope.errors import RecordError
from attnscope.readings import FAILED, NOT_APPLICABLE, NOT_FINITE, OK, Label, Reading, missing

READINGS, START = "readings.jsonl", "start.safetensors"
VERSION = 1


class Run:
    """Readings over the steps of one training.

    Args:
        folder: where they are stored; None keeps them in memory. A folder that holds a run is continued.
        name: shown in reports; a stored run keeps its own.

    Raises:
        RecordError: the folder holds something else under that name, or a run of another version.
    """

    def __init__(self, folder: str | Path | None = None, *, name: str = "") -> None:
        self.folder = None if folder is None else Path(folder)
        self.name = name
        self._held: dict[int, dict[str, Reading]] = {}
        self._checked = False
        if self.folder is not None and (self.folder / READINGS).exists():
            self._read(self.folder / READINGS)

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps at which anything was measured, in order."""
        return tuple(sorted(self._held))

    @property
    def lenses(self) -> tuple[str, ...]:
        """The names of what was measured, sorted."""
        return tuple(sorted({name for held in self._held.values() for name in held}))

    @property
    def start(self) -> Path | None:
        """The file of the parameters before the first step; None when there is none."""
        path = None if self.folder is None else self.folder / START
        return path if path is not None and path.exists() else None

    def at(self, step: int) -> Mapping[str, Reading]:
        """Lens name -> reading at that step; empty when nothing was measured."""
        return dict(self._held.get(step, {}))

    def readings(self, name: str) -> dict[int, Reading]:
        """Step -> reading of one lens, in order; failed ones too."""
        return {step: self._held[step][name] for step in self.steps if name in self._held[step]}

    def append(self, reading: Reading, step: int | None = None) -> None:
        """Stores one reading; it is on disk when this returns.

        Args:
            reading: from any lens.
            step: when it was made; the reading's own step when None.

        Raises:
            ValueError: neither says the step.
            RecordError: the folder cannot be written to.
        """
        step = reading.step if step is None else step
        if step is None:
            raise ValueError(f"the reading of {reading.lens} has no step; pass append(reading, step=...)")
        reading = replace(reading, step=int(step))
        self._held.setdefault(int(step), {})[reading.lens] = reading
        if self.folder is not None:
            line = json.dumps(reading.to_dict(), allow_nan=False)
            try:
                self._append_line(self.folder / READINGS, line)
            except OSError as error:
                raise RecordError(f"cannot write to {self.folder / READINGS}: {error.strerror}") from error

    def series(self, name: str) -> Reading:
        """One lens over the run: its readings stacked along a first dim `step`.

        Labels may come and go (a word that no batch held): every label that occurs has its place, and is NaN
        where it was not measured, as is a step whose reading failed.

        Raises:
            KeyError: that lens was never recorded; the names of the recorded ones are given.
        """
        every = self.readings(name)
        if not every:
            raise KeyError(f"no reading of {name!r} in this run; it holds {', '.join(self.lenses) or 'nothing'}")
        good = {step: reading for step, reading in every.items() if reading.status in (OK, NOT_FINITE)}
        last = list((good or every).values())[-1]
        dims = ("step", *last.dims)
        if not good:
            status = NOT_APPLICABLE if last.status == NOT_APPLICABLE else FAILED
            return missing(name, dims, last.unit, status, last.note, **last.settings)
        labels: dict[str, tuple[Label, ...]] = {
            dim: tuple(dict.fromkeys(label for reading in good.values() for label in reading.labels(dim)))
            for dim in last.dims
        }
        values = np.full((len(every), *(len(labels[dim]) for dim in last.dims)), np.nan)
        for row, step in enumerate(every):
            if step in good:
                reading = good[step]
                places = [[labels[dim].index(label) for label in reading.labels(dim)] for dim in last.dims]
                where: Any = (row, *np.ix_(*places))
                values[where] = reading.values
        return Reading(
            name, values, dims, last.unit, {"step": tuple(every), **labels}, last.status, last.note,
            settings=last.settings, facts=last.facts,
        )

    def _append_line(self, path: Path, line: str) -> None:
        if not self._checked:
            path.parent.mkdir(parents=True, exist_ok=True)
            _cut_half_line(path)
            if not path.exists() or path.stat().st_size == 0:
                line = json.dumps({"attnscope_run": VERSION, "name": self.name}) + "\n" + line
            self._checked = True
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def _read(self, path: Path) -> None:
        try:
            whole, _, _half = path.read_bytes().rpartition(b"\n")
            lines = whole.decode("utf-8").split("\n")
            header: Any = json.loads(lines[0]) if whole else {"attnscope_run": VERSION}
            if not isinstance(header, dict) or header.get("attnscope_run") != VERSION:
                raise RecordError(f"{path} is not a run of version {VERSION}: it starts with {lines[0][:60]!r}")
            self.name = str(header.get("name") or self.name)
            for line in lines[1:]:
                reading = Reading.from_dict(json.loads(line))
                self._held.setdefault(int(reading.step or 0), {})[reading.lens] = reading
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RecordError(f"{path} cannot be read as a run: {type(error).__name__}: {error}") from error


def open_run(path: str | Path) -> Run:
    """Opens a stored run, also one that is being written.

    Args:
        path: its folder.

    Raises:
        RecordError: there is no run, or the file is not one.
    """
    folder = Path(path)
    folder = folder.parent if folder.name == READINGS else folder
    if not (folder / READINGS).exists():
        raise RecordError(f"no run in {folder}: it has no {READINGS}; name the folder given to train(run=...)")
    return Run(folder)


def _cut_half_line(path: Path) -> None:
    """Removes what follows the last line break: a line that a kill left half-written."""
    if path.exists():
        raw = path.read_bytes()
        if not raw.endswith(b"\n"):
            with path.open("r+b") as file:
                file.truncate(raw.rfind(b"\n") + 1)
