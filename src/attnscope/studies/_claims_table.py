"""A study's claims as a terminal table and as Markdown."""

from __future__ import annotations

import platform
from collections.abc import Mapping

import torch
from rich.table import Table

from attnscope.studies import Claim, StudyResult


def claims_table(result: StudyResult) -> Table:
    """For the terminal."""
    held = sum(claim.holds for claim in result.claims)
    table = Table(
        "",
        "claim",
        "place",
        "expected",
        "tolerance",
        "measured",
        box=None,
        header_style="bold",
        title=f"{result.study}, scale {result.scale}: "
        f"{held} of {len(result.claims)} claims hold ({result.seconds:.0f} s)",
        caption="\n".join(f"left out: {reason}" for reason in result.skipped) or None,
    )
    for claim in result.claims:
        mark = "[green]holds[/]" if claim.holds else "[red]fails[/]"
        table.add_row(mark, claim.name, claim.place, claim.expected, claim.tolerance, number(claim.measured))
        if claim.note and not claim.holds:
            table.add_row("", f"[dim]{claim.note}[/]", "", "", "", "")
    return table


def to_markdown(
    result: StudyResult, title: str, reference: str, *, about: str = "", command: str = "",
    figures: Mapping[str, str] | None = None,
) -> str:
    """The page of `docs/studies/`: made by the command it names, on the machine it names.

    Args:
        result: what was measured.
        title: of the paper.
        reference: of the paper.
        about: Markdown above the table: what is claimed, and what is left open.
        command: that makes this page.
        figures: name -> where its file is, seen from the page.
    """
    held = sum(claim.holds for claim in result.claims)
    command = command or f"attnscope study {result.study} --scale {result.scale} --format markdown"
    lines = [
        f"# {title}",
        "",
        f"{reference}.",
        "",
        f"Made by `{command}` "
        f"(torch {torch.__version__}, {platform.system()} {platform.machine()}, {torch.get_num_threads()} threads): "
        f"{held} of {len(result.claims)} claims hold, {result.seconds:.0f} seconds.",
        "",
        *([about.strip(), "", "## Claims", ""] if about else []),
        "| | claim | place | expected | tolerance | measured | note |",
        "|---|---|---|---|---|---|---|",
        *(_row(claim) for claim in result.claims),
    ]
    lines += ["", *(f"Left out: {reason}." for reason in result.skipped)] if result.skipped else []
    if figures:
        lines += ["", "## Figures"]
        for name, file in figures.items():
            across, up = result.figures[name]
            caption = f"**{name[:1].upper()}{name[1:]}**: {up} (upwards) against {across}."
            lines += ["", caption, "", f"![{name}]({file})"]
    return "\n".join(lines) + "\n"


def _row(claim: Claim) -> str:
    cells = (
        "holds" if claim.holds else "**fails**",
        claim.name,
        claim.place,
        claim.expected,
        claim.tolerance,
        number(claim.measured),
        claim.note,
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def number(value: float) -> str:
    """Four significant digits."""
    return f"{value:.4g}"
