"""Who runs the cases: processes of this machine, or a Ray cluster. Both give rows as they come, in any order."""

from __future__ import annotations

from collections.abc import Generator, Iterable

from attnscope import workers as many
from attnscope.bench.execute import executed
from attnscope.bench.plan import BenchCase
from attnscope.bench.row import Row

CASES_A_PROCESS = 100  # a worker is replaced after so many, which gives back what its libraries keep


def in_processes(cases: Iterable[BenchCase], workers: int) -> Generator[Row]:
    """Runs cases in processes of one thread each; closing the iterator stops them."""
    return many.in_processes(executed, cases, workers, CASES_A_PROCESS)


def on_ray(cases: Iterable[BenchCase], workers: int, address: str = "") -> Generator[Row]:
    """Runs cases as Ray tasks of one core each.

    Args:
        cases: any number; at most a few per worker are handed out at a time.
        workers: how many at once.
        address: of a running cluster (`auto` finds one); empty starts a local one with so many workers.

    Raises:
        CaseError: Ray is not installed, or the cluster cannot be reached.
    """
    return many.on_ray(executed, cases, workers, address, CASES_A_PROCESS)
