"""What every command shows at the terminal: its console, its messages, its progress bar."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer

INTERRUPTED = 130  # the exit code after Ctrl-C


def console() -> Any:
    """Where tables and trees are printed."""
    from rich.console import Console

    return Console()


def say(message: str) -> None:
    """A line for the person at the terminal; standard output stays clean for machines."""
    typer.echo(message, err=True)


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Callable[[int, int, str], None] | None]:
    """A progress bar with time left on standard error; nothing when quiet or not at a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<32}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("tracing", total=None)

        def show(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=what[:32])

        yield show
