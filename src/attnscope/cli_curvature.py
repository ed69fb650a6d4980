"""The command line of curvature: one model, or many checkpoints of it. Imports inside each command."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnscope.cli_terminal import INTERRUPTED, console, progress_bar, say

if TYPE_CHECKING:
    from attnscope.portrait.portrait import Request

Target = Annotated[
    str, typer.Argument(metavar="FILE.py:FACTORY", help="A function without arguments that returns a Case.")
]


class Level(StrEnum):
    """How a model is cut into blocks."""

    projection = "projection"
    head = "head"
    layer = "layer"


class Measure(StrEnum):
    """What of the curvature is measured."""

    spectrum = "spectrum"
    coupling = "coupling"
    density = "density"


def curvature(
    target: Target,
    blocks: Annotated[Level, typer.Option(help="One block per projection, per head or per layer.")] = Level.projection,
    only: Annotated[list[str] | None, typer.Option(help="Only blocks of these names (`L*.Q`).")] = None,
    measure: Annotated[
        list[Measure] | None,
        typer.Option(help="spectrum: ends of every block; coupling: all pairs; density: the whole (default: all)."),
    ] = None,
    budget: Annotated[
        float | None, typer.Option(help="In gradients (default: 300, or a minute where that is more).", min=1)
    ] = None,
    precision: Annotated[
        float, typer.Option(help="Relative standard error at which the couplings stop; 0 spends the budget.", min=0)
    ] = 0.1,
    batches: Annotated[int, typer.Option(help="How many of the case's batches are used.", min=1)] = 1,
    examples: Annotated[
        int | None, typer.Option(help="Split batches into pieces of so many examples: less memory.", min=1)
    ] = None,
    memory: Annotated[float, typer.Option(help="Gigabytes of basis vectors held at once.", min=0.01)] = 1.0,
    double: Annotated[bool, typer.Option("--double", help="Products in float64.")] = False,
    training: Annotated[
        int, typer.Option(help="Also train a copy so many steps and follow its curvature.", min=0)
    ] = 0,
    gauss_newton: Annotated[
        bool | None,
        typer.Option(help="Split the Hessian into Gauss-Newton part and residual (default: if cheaper than the rest)."),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Keep the survey of couplings here; go on from it when it exists.")
    ] = None,
    checkpoints: Annotated[
        str | None, typer.Option(help="Measure each of these: 'runs/*.safetensors' (quoted).", metavar="PATTERN")
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the checkpoints' JSON files; those there are kept.")
    ] = Path("attnscope-checkpoints"),
    workers: Annotated[int, typer.Option(help="Checkpoints measured at once, each in a process.", min=1)] = 1,
    ray: Annotated[
        str | None, typer.Option(help="Measure checkpoints on Ray: `local`, `auto`, or an address.", metavar="ADDRESS")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn at random.")] = 0,
    format: Annotated[str, typer.Option("--format", help="`text` or `json`.")] = "text",
    html: Annotated[Path | None, typer.Option(help="Also write a page with figures (opens offline).")] = None,
    figures: Annotated[Path | None, typer.Option(help="Also write the figures as SVG files to this folder.")] = None,
    png: Annotated[bool, typer.Option("--png", help="The figures also as PNG, by a Chromium on the path.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Measures how sharply the loss bends in every block, and how strongly blocks bend together.

    Ctrl-C prints what is known so far; with --resume FILE a later run goes on from there. With --checkpoints, so does
    the same command.

    Example: `attnscope curvature train.py:make_case --blocks head --only 'L0*' --html curvature.html`
    """
    from attnscope.factory import load_case
    from attnscope.formats.curvature_table import print_curvature
    from attnscope.portrait.portrait import MEASURES, Request, portray

    if format not in ("text", "json"):
        raise typer.BadParameter(f"--format is text or json, found {format!r}")
    request = Request(
        level=blocks.value, only=tuple(only or ()), measures=tuple(item.value for item in measure or ()) or MEASURES,
        budget=budget, precision=precision or None, n_batches=batches, max_examples=examples,
        held=int(memory * 1e9 / (8 if double else 4)), double=double, seed=seed, training_steps=training,
        gauss_newton=gauss_newton,
    )
    if checkpoints is not None:
        if resume is not None or training:
            raise typer.BadParameter("--checkpoints goes with neither --resume (JSON files are kept) nor --training")
        _over_checkpoints(_Many(target, checkpoints, output, workers, ray, format, html, figures, png, quiet), request)
        return
    if ray is not None or workers > 1:
        raise typer.BadParameter("--ray and --workers share checkpoints between processes; give --checkpoints PATTERN")
    case = load_case(target)
    with progress_bar(quiet) as progress:
        found = portray(case, request, resume=resume, tell=progress).to_dict()
    found["command"] = shlex.join(["attnscope", *sys.argv[1:]])
    if format == "json":
        typer.echo(json.dumps(found, indent=1))
    else:
        print_curvature(found, console())
    if html is not None:
        from attnscope.pages.curvature_page import curvature_page

        written = curvature_page(found, html, command=found["command"])
        say(f"page written to {written} ({written.stat().st_size / 1e3:.0f} kB, opens offline)")
    if figures is not None:
        _write_figures(found, figures, png)
    if resume is not None:
        say(f"survey kept in {resume}")


@dataclass(frozen=True)
class _Many:
    """What was asked for with --checkpoints."""

    target: str
    pattern: str
    output: Path
    workers: int
    ray: str | None
    format: str
    html: Path | None
    figures: Path | None
    png: bool
    quiet: bool


def _over_checkpoints(asked: _Many, request: Request) -> None:
    from attnscope.formats.checkpoint_table import print_checkpoints
    from attnscope.portrait import checkpoints as many

    jobs = many.jobs_of(asked.target, asked.pattern, request, asked.output)
    interrupted = False
    with progress_bar(asked.quiet) as progress:
        try:
            outcomes = many.measure(jobs, workers=asked.workers, ray=asked.ray, tell=progress)
            interrupted = any([outcome.interrupted for outcome in outcomes])
        except KeyboardInterrupt:
            interrupted = True
    portraits = many.read(jobs)
    readings, notes = many.over_checkpoints(portraits), many.notes_of(portraits)
    command = shlex.join(["attnscope", *sys.argv[1:]])
    if asked.format == "json":
        found = {
            "command": command, "interrupted": interrupted, "notes": notes,
            "checkpoints": [str(job.output) for job in jobs if job.output.exists()],
            "readings": {name: reading.to_dict() for name, reading in readings.items()},
        }
        typer.echo(json.dumps(found, indent=1))
    else:
        print_checkpoints(readings, portraits, notes, console())
    say(f"{len(portraits)} of {len(jobs)} checkpoints measured, one JSON file each in {asked.output}")
    if asked.html is not None and portraits:
        from attnscope.pages.checkpoint_page import checkpoint_page

        name = str(portraits[0].get("name") or asked.target)
        say(f"page written to {checkpoint_page(name, readings, portraits, notes, asked.html, command=command)}")
    if asked.figures is not None and portraits:
        from attnscope.pages.checkpoint_page import write_checkpoint_figure

        _said(write_checkpoint_figure(readings, portraits, asked.figures), asked.figures, asked.png)
    if interrupted:
        say("interrupted; the same command measures the rest")
        raise typer.Exit(INTERRUPTED)


def _write_figures(portrait: dict[str, Any], folder: Path, png: bool) -> None:
    from attnscope.pages.curvature_page import write_figures

    _said(write_figures(portrait, folder), folder, png)


def _said(written: Sequence[Path], folder: Path, png: bool) -> None:
    """Tells of figures that were written, and writes them as PNG too."""
    from attnscope.pages.raster import browser, to_png

    say(f"{len(written)} figures written to {folder}")
    program = browser() if png else None
    if png and program is None:
        say("no PNG: there is no Chromium on the path")
    for file in written if program else ():
        if program and to_png(file, program) is None:
            say(f"{program} made no PNG of {file}")
