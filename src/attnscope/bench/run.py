"""Runs what is left of a benchmark: the cases of a size that have no row yet, one row stored as each ends."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock, Timeout

from attnscope.bench.executors import in_processes, on_ray
from attnscope.bench.plan import BenchCase
from attnscope.bench.row import Row
from attnscope.bench.store import Store, write_columns
from attnscope.errors import RecordError

Progress = Callable[[int, int, str], None]
RESULTS = "results.parquet"


@dataclass(frozen=True)
class Outcome:
    """What a run did.

    Attributes:
        done: how many cases were run now; `before`: how many had a row already; `left`: how many have none.
        interrupted: whether the user stopped it.
        results: the columnar file.
    """

    done: int
    before: int
    left: int
    interrupted: bool
    results: Path


def run(
    cases: Sequence[BenchCase], folder: str | Path, *, workers: int = 0, ray: str | None = None,
    progress: Progress | None = None, about: dict[str, str] | None = None,
) -> Outcome:
    """Runs the cases that have no row yet. A kill at any moment loses only the cases that were running.

    Args:
        cases: in the order in which they are run.
        folder: of the rows; a later run with the same folder goes on where this one stopped.
        workers: processes at once; 0 takes one per core.
        ray: address of a Ray cluster, `local` to start one here, None to use processes of this machine.
        progress: called as `progress(done, total, what)`.
        about: what the results file says of the run, beside its environment.

    Returns:
        what was done; the columnar file is written at the end and after Ctrl-C.

    Raises:
        RecordError: the folder cannot be used, or another run is at it.
    """
    store = Store(folder)
    lock = FileLock(store.folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RecordError(f"another run is at {store.folder}; wait for it, or give another folder") from None
    try:
        return _run(cases, store, workers or os.cpu_count() or 1, ray, progress, about or {})
    finally:
        lock.release()


def _run(
    cases: Sequence[BenchCase], store: Store, workers: int, ray: str | None, progress: Progress | None,
    about: dict[str, str],
) -> Outcome:
    wanted = {case.key: case for case in cases}
    held = store.keys()
    todo = [case for key, case in wanted.items() if key not in held]
    before, done, interrupted = len(wanted) - len(todo), 0, False
    rows = _rows(todo, workers, ray)
    try:
        for row in rows:
            store.append(row)
            done += 1
            if progress is not None:
                progress(before + done, len(wanted), row.key)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        rows.close()
    kept = [row for row in store.rows() if row.key in wanted]
    results = write_columns(kept, store.folder / RESULTS, {**environment(workers), **about})
    return Outcome(done, before, len(todo) - done, interrupted, results)


def _rows(todo: Iterable[BenchCase], workers: int, ray: str | None) -> Generator[Row]:
    if ray is None:
        return in_processes(todo, workers)
    return on_ray(todo, workers, "" if ray == "local" else ray)


def environment(workers: int) -> dict[str, str]:
    """Where the rows were made."""
    return {
        "attnscope": version("attnscope"),
        "torch": version("torch"),
        "numpy": version("numpy"),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": str(os.cpu_count()),
        "workers": str(workers),
        "threads a worker": "1",
    }
