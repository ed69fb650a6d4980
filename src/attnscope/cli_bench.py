"""The command line of the benchmark: `attnscope bench run|report|list`. Imports inside each command."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attnscope.cli_terminal import INTERRUPTED, console, progress_bar, say
from attnscope.whole_file import write_whole

if TYPE_CHECKING:
    from attnscope.bench.plan import BenchCase, Plan

bench = typer.Typer(
    name="bench",
    help="Plants mistakes with a known truth in models that are really trained, and says who finds them.\n\n"
    "Start with `attnscope bench report`, which reads the results that come with the package, or with "
    "`attnscope bench run --size smoke`, which makes small ones in two minutes.",
    no_args_is_help=True,
)
SHIPPED = Path(__file__).parent / "bench" / "results_small.parquet"


class Size(StrEnum):
    """How much is run."""

    smoke = "smoke"
    small = "small"
    paper = "paper"


class Pages(StrEnum):
    """What a report is written as."""

    markdown = "markdown"
    html = "html"
    json = "json"


SizeOption = Annotated[Size, typer.Option(help="smoke: two minutes; small: hours on two cores; paper: a cluster.")]


def _planned(size: Size, select: str, quiet: bool = False) -> tuple[Plan, list[BenchCase]]:
    from attnscope.bench.plan import SIZES, plan

    with progress_bar(quiet) as progress:
        made = plan(SIZES[size.value], progress)
    return made, [case for case in made.cases if select in case.key]


@bench.command("list")
def list_cases(
    size: SizeOption = Size.small,
    select: Annotated[str, typer.Option(help="Only cases whose key holds this, such as han_reviews/fault.")] = "",
    left_out: Annotated[bool, typer.Option("--left-out", help="What is not run, and why, instead.")] = False,
) -> None:
    """Prints the keys of the cases of a size, one a line; each can be rerun with `attnscope bench run --case KEY`.

    Example: `attnscope bench list --size smoke --select fault`
    """
    made, cases = _planned(size, select, quiet=True)
    if left_out:
        for name, why in made.left_out.items():
            typer.echo(f"{name}: {why}")
        return
    for case in cases:
        typer.echo(case.key)
    say(f"{len(cases)} cases; {len(made.left_out)} combinations do not apply (--left-out tells why)")


@bench.command()
def run(
    size: SizeOption = Size.smoke,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the rows; go on with the same one.")] = Path(
        "attnscope-bench"
    ),
    select: Annotated[str, typer.Option(help="Only cases whose key holds this.")] = "",
    case: Annotated[str, typer.Option(help="Run this one case and write its diagnosis as a report.")] = "",
    workers: Annotated[int, typer.Option(min=0, help="Processes of one thread each; 0: one per core.")] = 0,
    ray: Annotated[
        str | None, typer.Option(help="Run on Ray instead: the address of a cluster, `auto`, or `local`.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Runs the cases that have no row yet. Stop it at any time: the same command goes on where it stopped.

    Example: `attnscope bench run --size smoke -o bench && attnscope bench report bench/results.parquet`
    """
    from attnscope.bench.run import run as run_cases

    if case:
        _rerun(case, output)
        return
    _, cases = _planned(size, select, quiet)
    if not cases:
        raise typer.BadParameter(f"no case of size {size.value} has a key that holds {select!r}; see `bench list`")
    with progress_bar(quiet) as progress:
        outcome = run_cases(
            cases, output, workers=workers, ray=ray, progress=progress, about={"size": size.value, "select": select}
        )
    say(
        f"{outcome.done} cases run now, {outcome.before} before, {outcome.left} left; results in {outcome.results}; "
        f"next: attnscope bench report {outcome.results}"
    )
    if outcome.interrupted:
        raise typer.Exit(INTERRUPTED)


def _rerun(key: str, output: Path) -> None:
    """Trains one case again and opens what the diagnosis says of it."""
    from attnscope import formats
    from attnscope.bench.execute import prepared
    from attnscope.bench.plan import BenchCase
    from attnscope.examine import diagnose
    from attnscope.pages.page import report as draw

    try:
        asked = BenchCase.of_key(key)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    subject, case, row = prepared(asked)
    say(f"{subject.name}: held-out quality {row.quality:.3f}; the truth: {', '.join(row.places) or 'nothing is wrong'}")
    with progress_bar(quiet=False) as progress:
        diagnosis = diagnose(case, progress=progress)
    formats.print_text(diagnosis, console())
    output.mkdir(parents=True, exist_ok=True)
    say(f"report written to {draw(diagnosis, output / (key.replace('/', '-').replace(':', '-') + '.html'))}")


@bench.command()
def report(
    results: Annotated[
        Path | None, typer.Argument(help="A results.parquet; the results that come with the package when not given.")
    ] = None,
    format: Annotated[Pages, typer.Option("--format", help="What is written.")] = Pages.markdown,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Into this file, not the terminal.")] = None,
) -> None:
    """Who finds which mistakes, from stored results: tables, or one page that opens offline.

    Example: `attnscope bench report --format html -o bench.html`
    """
    from attnscope.bench.report import report_text
    from attnscope.bench.store import read_columns

    rows, about = read_columns(results or SHIPPED)
    with progress_bar(quiet=False) as progress:
        text = report_text(rows, format.value, about, progress)
    if output is None:
        sys.stdout.write(text)
        return
    say(f"written to {write_whole(output, text)}")
