"""A curvature portrait in rows: for the terminal and for the page. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from attnscope.formats.numbers import count, number
from attnscope.plain import printable
from attnscope.readings import Reading

COLUMNS = ("block", "top", "bottom", "norm", "± ", "trace", "±", "directions", "negative share")
_READINGS = ("top_eigenvalue", "bottom_eigenvalue", "frobenius_norm", "trace", "stable_rank", "negative_share")
MOST_PAIRS, MOST_ROWS = 10, 60
WIDE, LONGEST_NAME = 100, 24  # characters
Blocks = Mapping[str, Mapping[str, Any]]  # name -> layer, role, head, parameters


@dataclass(frozen=True)
class Pair:
    """Two blocks that bend together."""

    a: str
    b: str
    ratio: float
    error: float
    norm: float


def block_label(name: str, blocks: Blocks) -> str:
    """A short name: `L0.Q` as it is, `L2.ffn` for a module in layer 2, else the last part of the path."""
    layer = blocks.get(name, {}).get("layer")
    parts = name.split(".")
    last = ".".join(parts[-2:]) if parts[-1].isdigit() else parts[-1]
    if layer is None:
        return last
    return name if name.startswith(f"L{layer}") else f"L{layer}.{last}"


def headline(portrait: Mapping[str, Any], readings: Mapping[str, Reading]) -> str:
    """The sharpest block and the strongest pair, in a sentence."""
    parts = []
    top = readings.get("top_eigenvalue")
    if top is not None and np.isfinite(top.values).any():
        sharpest = str(top.labels("block")[int(np.nanargmax(top.values))])
        parts.append(f"The loss bends most in {block_label(sharpest, portrait['blocks'])}")
    pairs = strongest_pairs(readings, portrait["blocks"], 1)
    if pairs:
        parts.append(f"{'most strongly coupled are' if parts else 'Most strongly coupled are'} "
                     f"{pairs[0].a} and {pairs[0].b}")
    return printable("; ".join(parts) + "." if parts else f"Curvature of {portrait['name']}: nothing was measured.")


def block_rows(
    readings: Mapping[str, Reading], blocks: Blocks, say: Callable[[float], str] = number
) -> list[list[str]]:
    """One row per block, in the order of `COLUMNS`; a dash where nothing is known."""
    first = next((readings[name] for name in _READINGS if name in readings), None)
    if first is None:
        return []
    return [
        [printable(block_label(str(block), blocks)), *_numbers(readings, row, say)]
        for row, block in enumerate(first.labels("block"))
    ]


def strongest_pairs(readings: Mapping[str, Reading], blocks: Blocks, most: int = MOST_PAIRS) -> list[Pair]:
    """The pairs of largest coupling whose error bar does not reach zero."""
    found, norms = readings.get("coupling"), readings.get("pair_norm")
    if found is None or norms is None:
        return []
    errors = np.zeros_like(found.values) if found.stderr is None else found.stderr
    names = [printable(block_label(str(name), blocks)) for name in found.labels("block")]
    rows, columns = np.triu_indices(len(names), 1)
    pairs = [
        Pair(names[i], names[j], *(float(table[i, j]) for table in (found.values, errors, norms.values)))
        for i, j in zip(rows.tolist(), columns.tolist(), strict=True)
        if found.values[i, j] > 2 * errors[i, j]
    ]
    return sorted(pairs, key=lambda pair: -pair.ratio)[:most]


def print_curvature(portrait: Mapping[str, Any], console: Console) -> None:
    """Prints the portrait for a person."""
    readings = {name: Reading.from_dict(data) for name, data in portrait["readings"].items()}
    facts = portrait["facts"]
    console.print(Text(printable(portrait["name"]), "dim"))
    console.print(Text(headline(portrait, readings), "bold"))
    if portrait["interrupted"]:
        console.print(Text("Interrupted: what follows is right, but not all was measured.", "yellow"))
    rows = block_rows(readings, portrait["blocks"])
    if rows:
        console.print(_blocks_table(rows[:MOST_ROWS], console.width))
    if len(rows) > MOST_ROWS:
        console.print(Text(f"{len(rows) - MOST_ROWS} more blocks in --format json and --html", "dim"))
    pairs = strongest_pairs(readings, portrait["blocks"])
    if pairs:
        console.print()
        strongest = Table("strongest couplings", "ratio", "±", "norm", box=None, header_style="dim", pad_edge=False)
        for pair in pairs:
            strongest.add_row(printable(f"{pair.a}, {pair.b}"), number(pair.ratio), number(pair.error, digits=2),
                              number(pair.norm))
        console.print(strongest)
    console.print()
    for said in _closing(facts, readings):
        console.print(Text(printable(said), "dim"))


def _blocks_table(rows: Sequence[Sequence[str]], width: int) -> Table:
    """A narrow terminal has no room for the errors; the names stay."""
    shown = [index for index, column in enumerate(COLUMNS) if width >= WIDE or not column.startswith("±")]
    table = Table(box=None, header_style="dim", pad_edge=False)
    longest = max((len(row[0]) for row in rows), default=0)
    for index in shown:
        least = min(longest, LONGEST_NAME) if index == 0 else None
        table.add_column(COLUMNS[index], justify="right" if index else "left", no_wrap=True, min_width=least)
    for row in rows:
        table.add_row(*(Text(row[index]) for index in shown))
    if len(shown) < len(COLUMNS):
        table.caption = f"standard errors: in a terminal of {WIDE} columns, --format json and --html"
        table.caption_justify = "left"
    return table


def _closing(facts: Mapping[str, Any], readings: Mapping[str, Reading]) -> Iterator[str]:
    if "stability" in readings:
        yield (f"the sharpest direction that the optimiser sees is at {number(float(readings['stability'].values))} of "
               "its stability limit (above 1 a step overshoots)")
    parts = readings.get("query_key_by_part")
    if parts is not None and np.isfinite(parts.values).any():
        whole, first = (float(np.nanmedian(parts.values[row])) for row in (0, 1))
        yield (f"queries and keys are coupled at {number(whole)} in the Hessian and at {number(first)} in its "
               "Gauss-Newton part (medians, same scale)")
    for note in facts["notes"]:
        yield f"note: {note}"
    if facts["left_out"]:
        yield f"left out (frozen or not asked for): {', '.join(facts['left_out'][:6])}"
    yield (f"loss {number(facts['loss'])}, {count(round(facts['gradients']), 'gradient')} of "
           f"{facts['seconds_per_gradient']:.3g} s, {facts['seconds']:.0f} s in all, {facts['precision']}")


def _numbers(readings: Mapping[str, Reading], row: int, say: Callable[[float], str]) -> Iterator[str]:
    for name in _READINGS:
        reading = readings.get(name)
        value = float("nan") if reading is None else float(reading.values[row])
        yield say(value) if np.isfinite(value) else "–"
        if name in ("frobenius_norm", "trace"):
            error = float("nan") if reading is None or reading.stderr is None else float(reading.stderr[row])
            yield say(error) if np.isfinite(error) else "–"
