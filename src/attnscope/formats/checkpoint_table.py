"""What many checkpoints' curvature says side by side, in rows: for the terminal and for the page. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from attnscope.formats.curvature_table import Blocks, block_label
from attnscope.formats.numbers import count, number
from attnscope.plain import printable
from attnscope.readings import Reading

COLUMNS = ("checkpoint", "loss", "sharpest block", "top eigenvalue", "of its limit", "all, of the optimiser's limit")


def blocks_of(portraits: Sequence[Mapping[str, Any]]) -> Blocks:
    """The blocks of all checkpoints."""
    return {name: block for item in portraits for name, block in item.get("blocks", {}).items()}


def checkpoint_rows(
    readings: Mapping[str, Reading], blocks: Blocks, names: Sequence[str], say: Callable[[float], str] = number
) -> list[list[str]]:
    """One row per checkpoint, in the order of `COLUMNS`; a dash where nothing is known."""
    top, limit = readings.get("top_eigenvalue"), readings.get("stability_limit")
    rows = []
    for row, name in enumerate(names):
        sharpest, value, share = "–", np.nan, np.nan
        if top is not None and np.isfinite(top.values[row]).any():
            column = int(np.nanargmax(top.values[row]))
            sharpest, value = block_label(str(top.labels("block")[column]), blocks), float(top.values[row, column])
            if limit is not None:
                share = value / float(limit.values[row, column])
        single = [float(readings[key].values[row]) if key in readings else np.nan for key in ("loss", "stability")]
        said = [say(item) if np.isfinite(item) else "–" for item in (single[0], value, share, single[1])]
        rows.append([printable(name), said[0], printable(sharpest), *said[1:]])
    return rows


def print_checkpoints(
    readings: Mapping[str, Reading], portraits: Sequence[Mapping[str, Any]], notes: Sequence[str], console: Console
) -> None:
    """Prints them for a person."""
    names = [str(item["checkpoint"]) for item in portraits]
    table = Table(box=None, header_style="dim", pad_edge=False)
    for index, column in enumerate(COLUMNS):
        table.add_column(column, justify="left" if index in (0, 2) else "right", no_wrap=index == 0)
    for row in checkpoint_rows(readings, blocks_of(portraits), names):
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)
    console.print()
    if "stability_limit" not in readings:
        console.print(Text(
            "no block's stability limit: it needs Case(optimizer=SGD), since a checkpoint of weights holds nothing of "
            "Adam's preconditioner", "dim",
        ))
    for note in notes:
        console.print(Text(f"note: {printable(note)}", "dim"))
    console.print(Text(count(len(names), "checkpoint"), "dim"))
