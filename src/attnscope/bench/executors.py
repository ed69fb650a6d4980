"""Who runs the cases: processes of this machine, or a Ray cluster. Both give rows as they come, in any order."""

from __future__ import annotations

import importlib
import multiprocessing
import os
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from typing import Any

from attnscope.bench.execute import executed
from attnscope.bench.plan import BenchCase
from attnscope.bench.row import Row
from attnscope.errors import CaseError

AHEAD = 2  # cases handed out per worker, so that none waits for the parent
CASES_A_PROCESS = 100  # a worker is replaced after so many, which gives back what its libraries keep


def in_processes(cases: Iterable[BenchCase], workers: int) -> Generator[Row]:
    """Runs cases in processes of one thread each; closing the iterator stops them."""
    with _one_thread_each():
        pool = ProcessPoolExecutor(
            workers, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=CASES_A_PROCESS
        )
        waiting = iter(cases)
        try:
            running = {pool.submit(executed, case) for case in islice(waiting, AHEAD * workers)}
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                running |= {pool.submit(executed, case) for case in islice(waiting, len(done))}
                for future in done:
                    yield future.result()
        finally:
            _stop(pool)


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


def on_ray(cases: Iterable[BenchCase], workers: int, address: str = "") -> Generator[Row]:
    """Runs cases as Ray tasks of one core each.

    Args:
        cases: any number; at most a few per worker are handed out at a time.
        workers: how many at once.
        address: of a running cluster (`auto` finds one); empty starts a local one with so many workers.

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
    task = ray.remote(num_cpus=1, max_calls=CASES_A_PROCESS)(executed)
    waiting = iter(cases)
    try:
        running = [task.remote(case) for case in islice(waiting, AHEAD * workers)]
        while running:
            done, running = ray.wait(running, num_returns=1)
            running += [task.remote(case) for case in islice(waiting, len(done))]
            for reference in done:
                yield ray.get(reference)
    finally:
        ray.shutdown()
