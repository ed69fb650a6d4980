"""report: one self-contained HTML file that opens from disk with the network off."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from attnscope.findings import Diagnosis, Severity
from attnscope.formats.files import readable, where
from attnscope.formats.model_map import State, home, model_map
from attnscope.formats.numbers import count, typeset
from attnscope.formats.tree import steps
from attnscope.pages.block_figures import block_figure, layers_of
from attnscope.pages.cards import Places, checks, finding_cards
from attnscope.pages.data import page_data, script_json
from attnscope.pages.drawing import Drawing, Figure, everywhere, summary
from attnscope.pages.figures import figure
from attnscope.pages.lens_notes import CURVATURE, OTHER, TOPIC_ORDER, LensNote, lens_note
from attnscope.pages.places import Index, grouped, touching
from attnscope.pages.prose import inline, name, path, prose, sentence, shown
from attnscope.readings import Reading
from attnscope.whole_file import write_whole

LARGEST = 3_000_000
FIGURES_BUDGET = 1_300_000


@dataclass(frozen=True)
class Detail:
    """How much of a very large diagnosis is drawn, so that the page stays small."""

    figures: int = FIGURES_BUDGET
    cards: int = 120
    lean: bool = False
    tables: int = 4000


FULL, LEAN = Detail(), Detail(figures=300_000, cards=60, lean=True, tables=600)
DETAILS = (FULL, LEAN, Detail(figures=0, cards=25, lean=True, tables=100))


@dataclass(frozen=True)
class Drawn:
    """A reading as it stands on the page."""

    number: int
    reading: Reading
    note: LensNote
    figure: Figure | None
    everywhere: float | None
    summary: str


def report(diagnosis: Diagnosis | str | Path, path: str | Path = "report.html") -> Path:
    """Writes the report: one file, no network, at most 3 MB.

    Args:
        diagnosis: what `diagnose` returned, or the path of a diagnosis that was saved as JSON.
        path: where the page goes; the file appears whole or not at all.

    Returns:
        The path.

    Raises:
        RecordError: the saved diagnosis cannot be read.
    """
    if isinstance(diagnosis, str | Path):
        diagnosis = Diagnosis.open(diagnosis)
    return write_whole(path, html(diagnosis))


def html(diagnosis: Diagnosis) -> str:
    """The page as text, with as much detail as fits."""
    page = ""
    places = {lens: grouped(reading) for lens, reading in diagnosis.readings.items()}
    for detail in DETAILS:
        page = _render(diagnosis, places, detail)
        if len(page.encode("utf-8", "backslashreplace")) <= LARGEST:
            break
    return page


def _render(diagnosis: Diagnosis, places: Places, detail: Detail) -> str:
    style, script = asset("page.css") + asset("curvature.css"), asset("page.js")
    return environment().from_string(asset("page.html")).render(
        **context(diagnosis, places, detail),
        style=Markup(style), script=Markup(script), policy=policy(style, script),
        data=Markup(script_json(page_data(diagnosis, lean=detail.lean))),
    )


def policy(style: str, script: str) -> str:
    """The Content-Security-Policy: this very style and script, nothing else, and nothing from anywhere."""
    return (
        f"default-src 'none'; style-src '{digest(style)}'; script-src '{digest(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def digest(text: str) -> str:
    """A hash in the form that a Content-Security-Policy takes."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def asset(file: str) -> str:
    """A file of this package, with line ends as browsers hash them."""
    return (files("attnscope.pages") / file).read_text(encoding="utf-8").replace("\r\n", "\n")


@cache
def environment() -> Environment:
    """The template engine: every value is escaped and made inert."""
    made = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=shown,
    )
    made.filters.update(
        number=typeset, count=count, name=name, readable=readable, where=where, prose=prose, inline=inline,
        summary=summary, path=path, sentence=sentence,
    )
    return made


def context(diagnosis: Diagnosis, places: Places, detail: Detail) -> dict[str, Any]:
    """What the template is given."""
    serious = diagnosis.at_least(Severity.WARNING)
    attentions = diagnosis.anatomy.attentions
    drawn = _drawn(diagnosis, places, detail)
    plan = model_map(diagnosis)
    return {
        "diagnosis": diagnosis,
        "anatomy": diagnosis.anatomy,
        "headline": _headline(diagnosis),
        "mood": serious[0].severity.value if serious else ("empty" if not attentions else "calm"),
        "lede": _lede(diagnosis),
        "cards": finding_cards(diagnosis, places, detail.cards),
        "rest": diagnosis.findings[detail.cards:detail.cards + detail.tables],
        "checks": checks(diagnosis),
        "map": plan,
        "states": [state for state in State if any(cell.state is state for cell in plan.cells)],
        "colourings": [item for item in drawn if _colours_map(item.reading, places[item.reading.lens])],
        "topics": _topics([item for item in drawn if item.reading.ok or item.reading.values.size]),
        "unread": [item for item in drawn if not item.reading.ok and not item.reading.values.size],
        "numbers": {item.reading.lens: item.number for item in drawn},
        "steps": steps,
        "home": home,
        "limit": detail.tables,
        "total": sum(block.numel for block in diagnosis.anatomy.blocks),
        "heads": sum(attention.n_heads for attention in attentions),
        "expectations": expectations(diagnosis.expects),
        "command": diagnosis.environment.get("command") or _snippet(diagnosis),
    }


def expectations(expects: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Each expectation: name, value, `stated` or `inferred`, and why it was inferred."""
    listed = expects.get("inferred", ())
    inferred = set(listed) if isinstance(listed, list | tuple) else set()
    rows = []
    for key, value in expects.items():
        if key == "inferred" and isinstance(value, list | tuple):
            continue
        if isinstance(value, Mapping) and "value" in value:
            origin = "inferred" if value.get("inferred") else "stated"
            rows.append((key, _said(value["value"]), origin, str(value.get("because", ""))))
        else:
            rows.append((key, _said(value), "inferred" if key in inferred else "stated", ""))
    return rows


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_said(item)}" for key, item in value.items())
    return str(value)


def _headline(diagnosis: Diagnosis) -> str:
    """The verdict, less the code and the place, which stand beside it."""
    serious = diagnosis.at_least(Severity.WARNING)
    if not diagnosis.anatomy.attentions or not serious:
        return diagnosis.verdict().split(":")[0].rstrip(".") + "."
    return serious[0].summary


def _lede(diagnosis: Diagnosis) -> str:
    attentions = diagnosis.anatomy.attentions
    if not attentions:
        return next(iter(diagnosis.anatomy.notes), "No softmax in the forward pass weighs values by scores.")
    heads = sum(attention.n_heads for attention in attentions)
    parts = [f"{count(len(attentions), 'attention')} with {count(heads, 'head')}"]
    if diagnosis.checked:
        parts.append(f"{count(len(diagnosis.checked), 'rule')} asked")
    parts.append(f"{count(sum(reading.ok for reading in diagnosis.readings.values()), 'reading')} taken")
    sentence = ", ".join(parts)
    if diagnosis.at_least(Severity.WARNING):
        return f"{sentence}."
    notes = len(diagnosis.findings)
    tail = f"; {count(notes, 'note')} below" if notes else ""
    return f"{sentence}: nothing points to a fault{tail}."


def _drawn(diagnosis: Diagnosis, places: Places, detail: Detail) -> list[Drawn]:
    """Every reading with its figure, until the figures' budget is spent."""
    left = detail.figures
    drawn = []
    blocks = layers_of({block.name: block for block in diagnosis.anatomy.blocks})
    for number, (lens, reading) in enumerate(diagnosis.readings.items()):
        drawing = Drawing(reading, number, _rings(lens, diagnosis, places))
        made = None
        if left > 0:
            curved = lens_note(lens).topic == CURVATURE
            made = (block_figure(drawing, blocks) if curved else None) or figure(drawing)
        if made is not None:
            size = sum(map(len, made.svg.values()))
            made = made if size <= left else None
            left -= size if made is not None else 0
        drawn.append(Drawn(number, reading, lens_note(lens), made, everywhere(reading), summary(reading)))
    return drawn


def _rings(lens: str, diagnosis: Diagnosis, places: Places) -> frozenset[Index]:
    """The entries that serious findings rest on."""
    return frozenset(
        index
        for finding in diagnosis.at_least(Severity.WARNING)
        if any(item.lens == lens for item in finding.evidence)
        for index in touching(places[lens], finding.block_or_site)[1]
    )


def _colours_map(reading: Reading, found: Mapping[str, list[Index]]) -> bool:
    """Whether the map can be coloured by this reading."""
    return reading.ok and bool(np.isfinite(reading.values).sum() > 1) and bool(found)


def _topics(drawn: list[Drawn]) -> list[tuple[str, list[Drawn]]]:
    order = (*TOPIC_ORDER, OTHER)
    grouped = [(topic, [item for item in drawn if item.note.topic == topic]) for topic in order]
    return [(topic, items) for topic, items in grouped if items]


def _snippet(diagnosis: Diagnosis) -> str:
    return f'attnscope.diagnose(case, effort="{diagnosis.effort}")'
