"""Curvature readings in the report, drawn as the curvature page draws them; the script reads their numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from attnscope.formats.curvature_table import Blocks
from attnscope.pages.curvature_figures import block_map, coupling_matrix, density
from attnscope.pages.drawing import WIDTH, Drawing, Figure
from attnscope.pages.figures import dots
from attnscope.pages.scale import LOG, Scale
from attnscope.readings import Reading

MOST_CELLS = 6400


def block_figure(drawing: Drawing, blocks: Blocks) -> Figure | None:
    """The figure of a reading about blocks or eigenvalues; None when another figure suits it better.

    Args:
        drawing: of a reading of curvature.
        blocks: name -> its layer.
    """
    reading = drawing.reading
    if not np.isfinite(reading.values).any():
        return None
    if reading.dims == ("eigenvalue",):
        caption = "logarithmic scale; ticks below are Ritz values, the ends of which are eigenvalues"
        return Figure({"": density(reading, drawing)}, caption)
    if reading.dims == ("block",) and _in_layers(reading, blocks):
        drawn = block_map(reading, blocks, drawing)
        caption = Scale.of(reading.values).words
        if reading.stderr is None:
            return Figure({"": drawn}, caption)
        # Colours cannot show how well a number is known.
        return Figure({"map": drawn, "with errors": next(iter(dots(drawing).svg.values()))}, caption)
    if len(reading.dims) == 2 and _is_coupling(reading, blocks):
        return _coupling(drawing, blocks)
    return None


def _coupling(drawing: Drawing, blocks: Blocks) -> Figure:
    reading = drawing.reading
    both = {
        name: coupling_matrix(reading, blocks, hierarchical=hierarchical, drawing=drawing)
        for name, hierarchical in (("model order", False), ("hierarchical order", True))
    }
    off = reading.values[~np.eye(len(reading.values), dtype=bool)]
    caption = ["strips: the layer"]
    if reading.stderr is not None:
        caption.append("empty: the error bar reaches zero")
    if Scale.of(off).form == LOG:
        caption.append("logarithmic scale")
    if drawing.ringed:
        caption.append(drawing.ringed)
    return Figure(both, "; ".join(caption), wide=14 + 24 * len(reading.values) > WIDTH)


def _in_layers(reading: Reading, blocks: Blocks) -> bool:
    """Whether a map says more than a list: several layers, with several blocks in one."""
    layers = [blocks[str(name)]["layer"] for name in reading.labels("block") if str(name) in blocks]
    inside = [layer for layer in layers if layer is not None]
    return len(layers) == len(reading.values) and len(set(inside)) > 1 and len(inside) > len(set(inside))


def _is_coupling(reading: Reading, blocks: Blocks) -> bool:
    """Pairs of the same blocks, with a strength that is not negative."""
    rows, columns = (tuple(map(str, reading.labels(dim))) for dim in reading.dims)
    known = rows == columns and len(rows) > 2 and all(name in blocks for name in rows)
    return known and reading.values.size <= MOST_CELLS and float(np.nanmin(reading.values)) >= 0


def layers_of(blocks: Mapping[str, Any]) -> Blocks:
    """What these figures must know of each block of an anatomy."""
    return {name: {"layer": block.layer, "head": block.head} for name, block in blocks.items()}
