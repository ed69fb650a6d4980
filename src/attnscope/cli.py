"""The command line. Each command imports what it needs and no more, so that help opens at once."""

from __future__ import annotations

import json
import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attnscope import __version__
from attnscope.cli_bench import bench
from attnscope.cli_curvature import Target, curvature
from attnscope.cli_terminal import INTERRUPTED, console, progress_bar, say
from attnscope.errors import AttnscopeError
from attnscope.whole_file import write_whole

if TYPE_CHECKING:
    from attnscope.findings import Diagnosis

app = typer.Typer(
    name="attnscope",
    help="Finds the attention in any PyTorch model and names what is wrong with it.\n\n"
    "Start with `attnscope demo`, then `attnscope check FILE.py:FACTORY` on your own model: FACTORY is a "
    "function without arguments that returns attnscope.Case(model, batches, loss=...).\n\n"
    "Exit codes: 0 nothing found, 1 findings at or above --fail-on, 2 a usage or internal error, 130 stopped (Ctrl-C).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(bench, name="bench")

FOUND, USAGE = 1, 2


class Effort(StrEnum):
    """How much a check may cost."""

    light = "light"
    standard = "standard"
    deep = "deep"


class Format(StrEnum):
    """What a check prints."""

    text = "text"
    json = "json"
    sarif = "sarif"
    github = "github"


class FailOn(StrEnum):
    """From which severity on a check exits with 1."""

    error = "error"
    warning = "warning"
    note = "note"
    never = "never"


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"attnscope {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def trace(
    target: Target,
    format: Annotated[str, typer.Option("--format", help="`text` (a tree) or `json`.")] = "text",
) -> None:
    """Shows every attention of a model: heads, parameters, scale, mask, softmax, positions, source lines.

    Example: `attnscope trace train.py:make_case --format json > anatomy.json`
    """
    from attnscope.anatomy.trace import trace as run
    from attnscope.factory import load_case
    from attnscope.formats.tree import anatomy_tree

    case = load_case(target)
    anatomy = run(case.model, case.batches[0], case.forward)  # type: ignore[index]
    if format == "json":
        typer.echo(json.dumps(anatomy.to_dict(), indent=1))
        return
    console().print(anatomy_tree(anatomy))


@app.command()
def check(
    target: Target,
    effort: Annotated[
        Effort,
        typer.Option(help="light: one forward pass; standard: also gradients and interventions; deep: also curvature."),
    ] = Effort.standard,
    select: Annotated[
        list[str] | None, typer.Option(help="Only these codes, groups or kinds (ATT, MSK101, future_leak).")
    ] = None,
    ignore: Annotated[list[str] | None, typer.Option(help="All but these.")] = None,
    format: Annotated[Format, typer.Option("--format", help="What is printed.")] = Format.text,
    html: Annotated[
        Path | None, typer.Option(help="Also write the report to this file (one page, opens offline).")
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Also write the diagnosis as JSON, for `attnscope report`.")] = None,
    fail_on: Annotated[FailOn, typer.Option(help="Exit with 1 from this severity on.")] = FailOn.warning,
    baseline: Annotated[Path | None, typer.Option(help="Leave out the findings that this file lists.")] = None,
    update_baseline: Annotated[bool, typer.Option(help="Write today's findings to the --baseline file.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Diagnoses a model: what is wrong, where, on what evidence, and what to try.

    Ctrl-C prints what is known so far.

    Examples: `attnscope check train.py:make_case --html report.html`,
    `attnscope check train.py:make_case --format sarif > attnscope.sarif`
    """
    from attnscope.examine import diagnose
    from attnscope.factory import load_case

    if update_baseline and baseline is None:
        raise typer.BadParameter("--update-baseline needs --baseline FILE")
    known = _read_baseline(baseline) if baseline and not update_baseline else set()
    case = load_case(target)
    with progress_bar(quiet) as progress:
        diagnosis = diagnose(
            case,
            effort=effort.value,
            select=tuple(select or ()),
            ignore=tuple(ignore or ()),
            progress=progress,
        )
    if update_baseline and baseline is not None:
        _write_baseline(baseline, diagnosis)
        known = {finding.fingerprint for finding in diagnosis.findings}
    diagnosis = diagnosis.without(known).made_by(shlex.join(["attnscope", *sys.argv[1:]]))
    _print(diagnosis, format)
    if save is not None:
        say(f"diagnosis written to {diagnosis.save(save)}")
    if html is not None:
        _write_report(diagnosis, html)
    if diagnosis.interrupted:
        raise typer.Exit(INTERRUPTED)
    if fail_on is not FailOn.never and diagnosis.at_least(fail_on.value):
        raise typer.Exit(FOUND)


app.command()(curvature)


@app.command()
def report(
    diagnosis: Annotated[Path, typer.Argument(help="A file written by `attnscope check --save` or `--format json`.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the page goes.")] = Path("report.html"),
    open_page: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Draws a saved diagnosis as one HTML page that opens from disk with the network off."""
    from attnscope.findings import Diagnosis

    _write_report(Diagnosis.open(diagnosis), output)
    if open_page:
        _open(output)


@app.command()
def explain(
    code: Annotated[str, typer.Argument(help="A code or a kind, such as MSK101 or future_leak.")],
) -> None:
    """Explains a rule: what it means, what evidence it needs, when it is a false alarm, what to try."""
    from rich.markdown import Markdown

    from attnscope.explanations import explain as text

    page = text(code)
    if sys.stdout.isatty():
        console().print(Markdown(page))
    else:
        typer.echo(page)


@app.command()
def rules(
    format: Annotated[str, typer.Option("--format", help="`text` or `json`.")] = "text",
) -> None:
    """Lists every code, its kind and what it recognises."""
    from attnscope.explanations import all_rules

    pages = all_rules()
    if format == "json":
        typer.echo(json.dumps([page.to_dict() for page in pages], indent=1))
        return
    from rich.table import Table

    table = Table("code", "kind", "severity", "what is wrong", box=None, header_style="bold")
    for page in pages:
        table.add_row(page.code, page.kind, page.severity, page.summary)
    console().print(table)


@app.command()
def doctor(
    format: Annotated[str, typer.Option("--format", help="`text` or `json`.")] = "text",
) -> None:
    """Explains the environment: torch build, attention kernels and their derivatives, precision, packages."""
    from dataclasses import asdict

    from attnscope.environment import examine_environment

    checks = examine_environment()
    if format == "json":
        typer.echo(json.dumps([asdict(item) for item in checks], indent=1))
    else:
        from rich.table import Table

        marks = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "problem": "[red]problem[/]"}
        table = Table(box=None, show_header=False)
        for item in checks:
            table.add_row(marks[item.state], item.topic, item.fact, f"[dim]{item.advice}[/]")
        console().print(table)
    if any(item.state == "problem" for item in checks):
        raise typer.Exit(FOUND)


@app.command()
def demo(
    fault: Annotated[str, typer.Option(help="The fault to plant, or `random`; `list` shows them.")] = "zeroed_value",
    model: Annotated[
        str, typer.Option(help="`distilbert` (pre-trained, from a package) or `gpt` (small, from scratch).")
    ] = "distilbert",
    reveal: Annotated[bool, typer.Option(help="Say at once what was planted, instead of at the end.")] = False,
    steps: Annotated[
        int | None, typer.Option(help="Training steps of each copy (default: what suits it).", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn at random.")] = 0,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the two reports.")] = Path(
        "attnscope-demo"
    ),
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Open the report in the browser.")] = True,
) -> None:
    """Fine-tunes a healthy and a sabotaged copy of a real transformer and diagnoses both (under two minutes)."""
    from attnscope.demo import Demo

    right = Demo(
        fault=fault, model=model, reveal=reveal, steps=steps, seed=seed, folder=output, console=console()
    ).run()
    if open_page:
        _open(output / "sabotaged.html")
    if not right:
        raise typer.Exit(FOUND)


class Scale(StrEnum):
    """How much of a study runs."""

    smoke = "smoke"
    small = "small"
    paper = "paper"


@app.command()
def study(
    name: Annotated[str, typer.Argument(help="Such as lu2021dynamics; `list` shows them.")],
    scale: Annotated[
        Scale, typer.Option(help="smoke: seconds; small: a minute or two; paper: all figures, all seeds.")
    ] = Scale.smoke,
    data: Annotated[Path | None, typer.Option(help="Folder with data of the study that come with nothing.")] = None,
    format: Annotated[str, typer.Option("--format", help="`text`, `json` or `markdown`.")] = "text",
    html: Annotated[Path | None, typer.Option(help="Also write the claims and curves as one offline page.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the parts of the study.")] = 1,
    figures: Annotated[
        Path | None, typer.Option(help="Also write each figure as an SVG file into this folder; Markdown shows them.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Replicates a paper: each claim with the number expected, its place, a tolerance, and the number measured.

    The exit code is 1 when a claim does not hold. Example: `attnscope study lu2021dynamics --scale smoke`
    """
    from dataclasses import asdict, fields

    from attnscope import catalogue
    from attnscope.studies import _claims_table as tables

    if name == "list":
        for member in catalogue.names("studies"):
            found = catalogue.load("studies", member)
            typer.echo(f"{member}  {found.title} ({found.reference})")
        return
    kind = catalogue.load("studies", name)
    takes_data = any(item.name == "data" for item in fields(kind))
    if data is not None and not takes_data:
        raise typer.BadParameter(f"{name} takes no --data")
    chosen = kind(data=data) if takes_data else kind()
    with progress_bar(quiet) as progress:
        result = chosen.run(scale.value, progress, workers)
    curves, drawn = [asdict(curve) for curve in result.curves], {}
    if figures is not None:
        from attnscope.pages.study_page import study_figures

        drawn = study_figures(name, result.figures, curves, figures)
        say(f"{len(drawn)} figures written to {figures}")
    if format == "json":
        typer.echo(json.dumps(result.to_dict(), indent=1))
    elif format == "markdown":
        links = {figure: f"{file.parent.name}/{file.name}" for figure, file in drawn.items()}
        command = shlex.join(["attnscope", *sys.argv[1:]])
        typer.echo(
            tables.to_markdown(
                result, chosen.title, chosen.reference, about=chosen.about, command=command, figures=links
            ),
            nl=False,
        )
    else:
        console().print(tables.claims_table(result))
    if html is not None:
        from attnscope.pages.study_page import study_page

        about = {**result.to_dict(), "title": chosen.title, "reference": chosen.reference, "figures": result.figures}
        say(f"page written to {study_page(about, curves, html)}")
    if not result.holds:
        raise typer.Exit(FOUND)


def _print(diagnosis: Diagnosis, format: Format) -> None:
    from attnscope import formats

    if format is Format.text:
        formats.print_text(diagnosis, console())
    elif format is Format.json:
        typer.echo(formats.to_json(diagnosis))
    elif format is Format.sarif:
        typer.echo(formats.to_sarif(diagnosis))
    else:
        typer.echo(formats.to_github(diagnosis))


def _write_report(diagnosis: Diagnosis, path: Path) -> None:
    from attnscope.pages.page import report as draw

    written = draw(diagnosis, path)
    say(f"report written to {written} ({written.stat().st_size / 1e3:.0f} kB, opens offline)")


def _open(path: Path) -> None:
    import webbrowser

    webbrowser.open(path.resolve().as_uri())


def _read_baseline(path: Path) -> set[str]:
    from attnscope.errors import RecordError

    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return {str(item["fingerprint"]) for item in data["findings"]}
    except OSError as error:
        raise RecordError(
            f"cannot read the baseline {path}: {error.strerror}; make it with --update-baseline"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{path} is not a baseline ({error}); make it with --update-baseline") from error


def _write_baseline(path: Path, diagnosis: Diagnosis) -> None:
    rows = [
        {
            "fingerprint": item.fingerprint,
            "code": item.code,
            "place": item.block_or_site,
            "summary": item.summary,
        }
        for item in diagnosis.findings
    ]
    write_whole(path, json.dumps({"findings": rows}, indent=1))
    say(f"baseline of {len(rows)} findings written to {path}")


def main() -> None:
    """The entry point: errors of ours become one clear message and exit code 2, never a traceback."""
    try:
        app()
    except AttnscopeError as error:
        typer.secho(f"error: {error}", err=True, fg=typer.colors.RED)
        sys.exit(USAGE)
    except BrokenPipeError:
        sys.exit(0)


if __name__ == "__main__":
    main()
