"""Curvature over checkpoints as one offline page, and its figure as a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from attnscope.formats.checkpoint_table import COLUMNS, blocks_of, checkpoint_rows
from attnscope.formats.numbers import typeset
from attnscope.pages.checkpoint_figures import eigenvalues_over_checkpoints
from attnscope.pages.curvature_page import Section, alone
from attnscope.pages.page import asset, environment, policy
from attnscope.readings import Reading
from attnscope.whole_file import write_whole

MEANS = (
    "The top eigenvalue of each block's own Hessian, at each checkpoint, on the same data. The dashed line is the "
    "largest eigenvalue at which a step of plain gradient descent, at the factory's learning rate and momentum, still "
    "comes closer along that direction; above it, it overshoots."
)
MEANS_NOT = (
    "A block below the line is no promise: the whole model bends at least as sharply as its sharpest block, and the "
    "limit holds for the whole. Without a line, the optimiser steps differently in every direction (Adam), and a "
    "checkpoint of weights does not hold how."
)


def checkpoint_page(
    name: str, readings: Mapping[str, Reading], portraits: Sequence[Mapping[str, Any]], notes: Sequence[str],
    path: str | Path, *, command: str = "",
) -> Path:
    """Writes the page.

    Args:
        name: of the case.
        readings: what `over_checkpoints` gives.
        portraits: of the checkpoints, in order.
        notes: what a reader must know.
        path: where the page goes.
        command: that made it.

    Returns:
        the path.
    """
    style = asset("page.css") + asset("curvature.css")
    blocks, names = blocks_of(portraits), [str(item["checkpoint"]) for item in portraits]
    sections = []
    if "top_eigenvalue" in readings:
        drawn = Markup(eigenvalues_over_checkpoints(readings, blocks))
        sections.append(Section("checkpoints", "Top eigenvalue of every block", MEANS, MEANS_NOT, (("", drawn),)))
    html = environment().from_string(asset("curvature.html")).render(
        portrait={"name": name, "interrupted": False, "facts": {"notes": notes}},
        headline=f"Curvature over {len(names)} checkpoints", facts=[("blocks", str(len(blocks)))],
        sections=sections, columns=COLUMNS, rows=checkpoint_rows(readings, blocks, names, typeset), noun="checkpoint",
        pairs=[], command=command or "attnscope curvature", style=Markup(style), policy=policy(style, ""),
    )
    return write_whole(path, html)


def write_checkpoint_figure(
    readings: Mapping[str, Reading], portraits: Sequence[Mapping[str, Any]], folder: str | Path
) -> list[Path]:
    """Writes the figure as an SVG file that stands alone; nothing when no eigenvalue is known."""
    if "top_eigenvalue" not in readings:
        return []
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    drawn = eigenvalues_over_checkpoints(readings, blocks_of(portraits))
    return [write_whole(folder / "top_eigenvalue-over_checkpoints.svg", alone(drawn))]
