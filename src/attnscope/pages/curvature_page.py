"""A portrait of a model's curvature as one offline page, and its figures as files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from attnscope.formats.curvature_table import COLUMNS, block_rows, headline, strongest_pairs
from attnscope.formats.numbers import count, typeset
from attnscope.pages import curvature_figures as figures
from attnscope.pages.page import asset, environment, policy
from attnscope.pages.part_figures import norms_by_part, query_key_by_part
from attnscope.readings import Reading
from attnscope.whole_file import write_whole

MEANS: Mapping[str, tuple[str, str, str]] = {
    "block_map": (
        "Block map",
        "The top eigenvalue of each block's own Hessian: how sharply the loss bends along its worst direction. "
        "The sharpest block is the first for which a learning rate is too large.",
        "Not importance: rescaling W_Q by c and W_K by 1/c leaves the model as it is and changes both numbers. "
        "Compare a block with the same role in other layers, or with itself earlier.",
    ),
    "coupling": (
        "Coupling",
        "How strongly two blocks bend together: ‖H_ab‖ over the root of ‖H_aa‖ ‖H_bb‖. It does not depend on the "
        "units of a block. Empty cells have an error bar that reaches zero. The strips show each block's layer.",
        "Not a correlation, and not bounded by 1: the Hessian is indefinite, and scores are the product of queries "
        "and keys. Read a pair against the same pair in other layers.",
    ),
    "parts": (
        "Gauss-Newton part and residual",
        "The Hessian is the Gauss-Newton matrix (the loss bends, the model is linear) plus a residual (the model "
        "bends). By block: the norm of each part over the whole's. Query and key: how they are coupled in the whole "
        "and in each part, all over the same root of ‖H_qq‖ ‖H_kk‖. Whiskers are one standard error.",
        "The parts need not add to 1: where they cancel, both exceed the whole. Where the Gauss-Newton bar of a query "
        "and its key is short, a method that uses that matrix (K-FAC, Fisher) does not see that the two bend together.",
    ),
    "spectral_density": (
        "Spectral density",
        "How many directions bend how much, all blocks together; the scale is logarithmic, the band is two starts' "
        "standard error. Long ticks are Ritz values known to 1 %: eigenvalues. Mass left of zero is a saddle.",
        "The curve is smeared by a normal of under one percent of the range; its narrow features are the smearing. "
        "Inner Ritz values (short ticks) are nodes of a quadrature, not eigenvalues.",
    ),
    "eigenvector_mass": (
        "Where the extreme directions lie",
        "The squared length of the top and the bottom eigenvector of the whole Hessian, by block and by head: what a "
        "step that is too large changes first.",
        "The shares of an eigenvector sum to 1 over all blocks, so they compare places and never models. Heads show "
        "query, key, value and output together.",
    ),
    "stability": (
        "Stability",
        "The sharpest direction of the preconditioned Hessian, over the optimiser's limit (2/lr for gradient descent, "
        "38/lr for Adam with β₁ = 0.9). Above 1, a step along it overshoots.",
        "Training with whole batches rises to 1 and hovers there: that is usual, and no fault. A copy of the model "
        "was trained; the curvature is that of the first batch, without dropout.",
    ),
}


@dataclass(frozen=True)
class Section:
    """One heading with its figures, and what they mean and do not."""

    key: str
    title: str
    means: str
    means_not: str
    pictures: tuple[tuple[str, Markup], ...]


def curvature_page(portrait: Mapping[str, Any], path: str | Path, *, command: str = "") -> Path:
    """Writes the page.

    Args:
        portrait: what `Portrait.to_dict` gives.
        path: where the page goes; the file appears whole or not at all.
        command: that made it.

    Returns:
        the path.
    """
    readings = _readings(portrait)
    style = asset("page.css") + asset("curvature.css")
    drawn = drawings(portrait)
    sections = [
        Section(key, *MEANS[key], tuple((said, Markup(svg)) for said, svg in drawn[key]))
        for key in MEANS if drawn.get(key)
    ]
    html = environment().from_string(asset("curvature.html")).render(
        portrait=portrait, headline=headline(portrait, readings), facts=_facts(portrait, readings),
        sections=sections, columns=COLUMNS, rows=block_rows(readings, portrait["blocks"], typeset),
        pairs=strongest_pairs(readings, portrait["blocks"]), command=command or "attnscope curvature",
        style=Markup(style), policy=policy(style, ""),
    )
    return write_whole(path, html)


def drawings(portrait: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Section -> its pictures, each with a caption; sections without numbers are missing."""
    readings, blocks = _readings(portrait), portrait["blocks"]
    found: dict[str, list[tuple[str, str]]] = {}
    if "top_eigenvalue" in readings:
        found["block_map"] = [("", figures.block_map(readings["top_eigenvalue"], blocks))]
    pairs = readings.get("coupling")
    if pairs is not None and len(pairs.values) > 1:
        found["coupling"] = [
            ("model order", figures.coupling_matrix(pairs, blocks, hierarchical=False)),
            ("hierarchical order", figures.coupling_matrix(pairs, blocks, hierarchical=True)),
        ]
    if "norm_by_part" in readings:
        found["parts"] = [("by block", norms_by_part(readings["norm_by_part"], blocks))]
    if "query_key_by_part" in readings:
        found["parts"].append(("query and key", query_key_by_part(readings["query_key_by_part"], blocks)))
    if "spectral_density" in readings:
        found["spectral_density"] = [("", figures.density(readings["spectral_density"]))]
    if "eigenvector_mass" in readings:
        found["eigenvector_mass"] = [("by block", figures.mass_by_block(readings["eigenvector_mass"], blocks))]
    if "eigenvector_mass_by_head" in readings:
        found["eigenvector_mass"].append(("by head", figures.mass_by_head(readings["eigenvector_mass_by_head"])))
    if "stability_over_training" in readings:
        found["stability"] = [("", figures.over_training(readings))]
    return found


def write_figures(portrait: Mapping[str, Any], folder: str | Path) -> list[Path]:
    """Writes every figure as an SVG file that stands alone, in light colours.

    Args:
        portrait: what `Portrait.to_dict` gives.
        folder: made when it does not exist.

    Returns:
        the files.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for key, pictures in drawings(portrait).items():
        for caption, svg in pictures:
            name = "-".join(filter(None, (key, caption))).replace(" ", "_")
            written.append(write_whole(folder / f"{name}.svg", alone(svg)))
    return written


def alone(svg: str) -> str:
    """An SVG with its own style: variables are replaced, since not every viewer knows them."""
    sheet = asset("page.css") + asset("curvature.css")
    named = dict(re.findall(r"(--[\w-]+): light-dark\(([^,]+),", sheet))
    named |= {"--sans": "sans-serif", "--mono": "monospace"}
    rules = re.findall(r"(?:svg )?(\.[\w.]+(?: \.[\w.]+)?|svg \.[\w. ]+) \{([^}]*)\}", sheet)
    kept = [
        f"{selector.removeprefix('svg ')} {{{_plain(body, named)}}}"
        for selector, body in rules
        if any(word in body for word in ("fill", "stroke"))
    ]
    head, _, rest = svg.partition(">")
    style = "<style>" + "\n".join(dict.fromkeys(kept)) + "</style>"
    ground = '<rect width="100%" height="100%" fill="#ffffff"/>'
    return f'{head} xmlns="http://www.w3.org/2000/svg">{style}{ground}{rest}'


def _plain(body: str, named: Mapping[str, str]) -> str:
    mixed = re.sub(r"color-mix\(in srgb, var\((--[\w-]+)\) \d+%, transparent\)", r"var(\1); fill-opacity: .15", body)
    return re.sub(r"var\((--[\w-]+)\)", lambda match: named.get(match[1], "#000000"), mixed)


def _readings(portrait: Mapping[str, Any]) -> dict[str, Reading]:
    return {name: Reading.from_dict(data) for name, data in portrait["readings"].items()}


def _facts(portrait: Mapping[str, Any], readings: Mapping[str, Reading]) -> list[tuple[str, str]]:
    facts = portrait["facts"]
    found = [
        ("loss", typeset(facts["loss"])),
        ("gradient norm", typeset(facts["gradient_norm"])),
        ("blocks", f"{len(portrait['blocks'])} ({portrait['level']}s)"),
        ("parameters", f"{facts['parameters']:,}".replace(",", "\u2009")),
        ("cost", f"{count(round(facts['gradients']), 'gradient')}, {facts['seconds']:.0f} s"),
    ]
    if "stability" in readings:
        found.append(("sharpness, of the optimiser's limit", typeset(float(readings["stability"].values))))
    density = readings.get("spectral_density")
    if density is not None:
        found.append(("negative share", typeset(float(density.facts["negative_share"]), digits=2)))
    return found
