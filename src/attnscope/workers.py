"""Who runs many independent parts: this process, processes of this machine, or a Ray cluster.

All give what the function returns as it comes, in any order; closing the iterator stops what is under way.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

from attnscope.errors import CaseError

AHEAD = 2  # parts handed out per worker, so that none waits for the parent
LOCAL = "local"  # the address that starts a Ray cluster on this machine

Part = TypeVar("Part")
Found = TypeVar("Found")


def everywhere(
    function: Callable[[Part], Found], parts: Iterable[Part], workers: int = 1, ray: str | None = None,
    renew: int | None = None,
) -> Generator[Found]:
    """Calls the function on every part, on whatever was asked for.

    Args:
        function: of a module that workers can import; it and the parts must be picklable.
        parts: any number; a few per worker are handed out at a time.
        workers: how many at once; 1 without Ray is this process.
        ray: address of a Ray cluster, `local` to start one here, None for this machine without Ray.
        renew: replaces a worker after so many parts, which gives back what its libraries keep; None never does.

    Raises:
        CaseError: Ray is not installed, or the cluster cannot be reached.
    """
    if ray is not None:
        return on_ray(function, parts, workers, "" if ray == LOCAL else ray, renew)
    return in_processes(function, parts, workers, renew) if workers > 1 else here(function, parts)


def here(function: Callable[[Part], Found], parts: Iterable[Part]) -> Generator[Found]:
    """One after the other, in this process."""
    for part in parts:
        yield function(part)


def in_processes(
    function: Callable[[Part], Found], parts: Iterable[Part], workers: int, renew: int | None = None
) -> Generator[Found]:
    """In processes of one thread each."""
    with _one_thread_each():
        pool = ProcessPoolExecutor(
            workers, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=renew
        )
        waiting = iter(parts)
        try:
            running = {pool.submit(function, part) for part in islice(waiting, AHEAD * workers)}
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                running |= {pool.submit(function, part) for part in islice(waiting, len(done))}
                for future in done:
                    yield future.result()
        finally:
            _stop(pool)


def on_ray(
    function: Callable[[Part], Found], parts: Iterable[Part], workers: int, address: str = "",
    renew: int | None = None,
) -> Generator[Found]:
    """As Ray tasks of one core each.

    Args:
        function: as for `everywhere`; files that it reads must be at the same place on every node.
        parts: as for `everywhere`.
        workers: how many at once.
        address: of a running cluster (`auto` finds one); empty starts a local one with so many workers.
        renew: as for `everywhere`.

    Raises:
        CaseError: Ray is not installed, or the cluster cannot be reached.
    """
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError as error:
        raise CaseError("the Ray executor needs ray; run: pip install 'attnscope[ray]'") from error
    settings = {"address": address} if address else {"num_cpus": workers, "include_dashboard": False}
    try:
        ray.init(**settings, log_to_driver=False, ignore_reinit_error=True, configure_logging=False)
    except Exception as error:
        raise CaseError(f"cannot reach Ray at {address or 'a local cluster'}: {error}") from error
    task = ray.remote(num_cpus=1, max_calls=renew or 0)(function)
    waiting = iter(parts)
    try:
        running = [task.remote(part) for part in islice(waiting, AHEAD * workers)]
        while running:
            done, running = ray.wait(running, num_returns=1)
            running += [task.remote(part) for part in islice(waiting, len(done))]
            for reference in done:
                yield ray.get(reference)
    finally:
        ray.shutdown()


def _stop(pool: ProcessPoolExecutor) -> None:
    """Ends the workers now: what they were at is run again another time."""
    processes = list((getattr(pool, "_processes", None) or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Workers read these when they load their libraries."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
