"""A diagnosis as HTML for a notebook: the verdict, a small map and the first findings, without any script."""

from __future__ import annotations

from markupsafe import Markup, escape

from attnscope.findings import Diagnosis, Finding, Severity, draw_in_notebooks
from attnscope.formats.files import where
from attnscope.formats.model_map import Cell, ModelMap, State, model_map
from attnscope.formats.numbers import count
from attnscope.pages.prose import inline, name, sentence
from attnscope.pages.svg import element, picture, words

# A notebook's output has no style sheet of ours: colours stand in the markup and suit light and dark grounds.
_FILLS = {
    State.ERROR: "#d2501a", State.WARNING: "#d99a1c", State.NOTE: "#4f8fcb", State.EFFECT: "none",
    State.CLEAR: "#8fb59d", State.ABSENT: "none",
}
_SHAPES = {State.ERROR: "M5 1 9 5 5 9 1 5z", State.WARNING: "M5 1.4 9 8.6H1z", State.NOTE: "M2.5 2.5h5v5h-5z"}
_STRONG = {Severity.ERROR: "#d2501a", Severity.WARNING: "#b9820f", Severity.NOTE: "#4f8fcb"}
MOST_FINDINGS, MOST_ROWS = 6, 48
CELL, PITCH = 12.0, 14.0


def as_html(diagnosis: Diagnosis) -> str:
    """A fragment for a notebook's output; a diagnosis that ends a cell shows itself this way.

    Args:
        diagnosis: what `diagnose` returned.

    Returns:
        HTML without scripts, links or style sheets.
    """
    serious = diagnosis.at_least(Severity.WARNING)
    colour = _STRONG[serious[0].severity] if serious else "#2f8f63"
    parts = [
        Markup('<div style="max-width:60em;line-height:1.45">'),
        Markup('<p style="border-left:4px solid {};padding:.1em 0 .1em .8em;font-size:1.15em;margin:.4em 0">'
               "<b>{}</b></p>").format(colour, inline(diagnosis.verdict())),
    ]
    plan = model_map(diagnosis)
    if plan.rows and len(plan.rows) <= MOST_ROWS:
        parts.append(Markup('<div style="overflow-x:auto">{}</div>').format(Markup(_drawn(plan))))
    parts += [_paragraph(finding) for finding in diagnosis.findings[:MOST_FINDINGS]]
    left = len(diagnosis.findings) - MOST_FINDINGS
    closing = [f"{count(left, 'more finding')}; " if left > 0 else "", "attnscope.report(diagnosis) draws the page."]
    parts.append(Markup('<p style="opacity:.7;font-size:.9em">{}</p></div>').format("".join(closing)))
    return str(Markup("").join(parts))


def _paragraph(finding: Finding) -> Markup:
    evidence = Markup("").join(Markup("<li>{}</li>").format(sentence(item.statement)) for item in finding.evidence[:2])
    remedy = Markup("<p style='margin:.1em 0'>Try: {}</p>").format(sentence(finding.remedies[0])) if finding.remedies \
        else Markup("")
    line = Markup(" · <code>{}</code>").format(name(where(finding.source))) if finding.source else Markup("")
    return Markup(
        '<div style="margin:.7em 0"><span style="color:{};font-weight:600">{}</span> {} · <code>{}</code>{}'
        '<br><b>{}</b><ul style="margin:.1em 0">{}</ul>{}</div>'
    ).format(
        _STRONG[finding.severity], finding.severity.value, name(finding.code), name(finding.block_or_site), line,
        inline(finding.summary), evidence, remedy,
    )


def _drawn(plan: ModelMap) -> str:
    """The map as a picture: one square a place; what is found has a colour and a shape."""
    left, top, gap = 34.0, 20.0, 10.0
    parts, x = [], left
    for group in plan.groups:
        parts.append(words(group.name, x, 10, fill="currentColor", font_size=9, font_family="sans-serif"))
        x += max(PITCH * len(group.columns), 5.2 * len(group.name)) + gap
    for number, row in enumerate(plan.rows):
        y, x = top + PITCH * number, left
        parts.append(words(row.attention.name, 0, y + 10, fill="currentColor", font_size=10,
                           font_family="monospace", font_weight="bold" if row.own.findings else None))
        for group, cells in zip(plan.groups, row.groups, strict=True):
            parts += [_square(cell, x + PITCH * slot, y) for slot, cell in enumerate(cells)]
            x += max(PITCH * len(group.columns), 5.2 * len(group.name)) + gap
    found = [cell for cell in plan.cells if cell.state not in (State.CLEAR, State.ABSENT)]
    said = ", ".join(f"{cell.title}: {cell.state}" for cell in found) or "nothing found anywhere"
    return picture(x, top + PITCH * len(plan.rows) + 4, "".join(parts), label=f"Map of the model: {said}")


def _square(cell: Cell, x: float, y: float) -> str:
    title = element("title", str(escape(f"{cell.title}: {cell.state}")))
    box = element(
        "rect", title, x=x, y=y, width=CELL, height=CELL, rx=2.5, fill=_FILLS[cell.state],
        fill_opacity=0.45 if cell.state is State.CLEAR else None,
        stroke="#d2501a" if cell.state is State.EFFECT else "currentColor" if cell.state is State.ABSENT else None,
        stroke_opacity=0.25 if cell.state is State.ABSENT else None,
        stroke_dasharray="2 2" if cell.state in (State.EFFECT, State.ABSENT) else None,
    )
    shape = _SHAPES.get(cell.state)
    if shape is None:
        return box
    moved = f"translate({x + 1:g} {y + 1:g})"
    return box + element("path", d=shape, transform=moved, fill="#fff", pointer_events="none")


draw_in_notebooks(as_html)
