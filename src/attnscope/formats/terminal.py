"""A diagnosis for the terminal: the verdict, a small map, one paragraph a finding; plain in a pipe."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from attnscope.findings import Diagnosis, Evidence, Finding, Severity
from attnscope.formats.files import where
from attnscope.formats.model_map import ModelMap, State, model_map
from attnscope.formats.numbers import count, number
from attnscope.plain import printable

STYLES = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}
_MARKS = {
    State.ERROR: ("E", "bold red"), State.WARNING: ("W", "yellow"), State.NOTE: ("N", "cyan"),
    State.EFFECT: ("e", "dim red"), State.CLEAR: (".", "green"), State.ABSENT: (" ", ""),
}
LARGEST_MAP = 48


def text(diagnosis: Diagnosis, *, width: int | None = None) -> str:
    """The terminal form as plain text.

    Args:
        diagnosis: what was found.
        width: of the lines; the terminal's own when None.
    """
    columns = width or shutil.get_terminal_size((100, 24)).columns
    console = Console(
        file=io.StringIO(), width=columns, force_terminal=False, color_system=None, legacy_windows=False,
    )
    print_text(diagnosis, console)
    written = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in written.splitlines()).strip("\n")


def print_text(diagnosis: Diagnosis, console: Console) -> None:
    """Prints the terminal form to a rich console, which knows its width and its colours."""
    console.print(Group(*_parts(diagnosis)), highlight=False, soft_wrap=False)


def _parts(diagnosis: Diagnosis) -> Iterator[RenderableType]:
    serious = diagnosis.at_least(Severity.WARNING)
    yield Text()
    yield _said(diagnosis.name or diagnosis.anatomy.model_class, "dim")
    yield _said(diagnosis.verdict(), STYLES[serious[0].severity] if serious else "bold green")
    if diagnosis.interrupted:
        yield Text("Interrupted: what follows is right, but not all was checked.", "yellow")
    plan = model_map(diagnosis)
    if diagnosis.findings and plan.rows and len(plan.rows) <= LARGEST_MAP:
        yield Text()
        yield Padding(_small_map(plan), (0, 0, 0, 2))
    for finding in diagnosis.findings:
        yield Text()
        yield from _finding(finding)
    yield Text()
    yield from _closing(diagnosis)


def _said(words: str, style: str = "") -> Text:
    """User text without effect: no markup, no escapes."""
    return Text(printable(words), style)


def _small_map(plan: ModelMap) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("")
    for group in plan.groups:
        letters = group.name in ("projections", "output")
        table.add_column("".join(group.columns) if letters else group.name, no_wrap=True, overflow="crop")
    for row in plan.rows:
        cells = [_marks([cell.state for cell in group]) for group in row.groups]
        table.add_row(Text(row.attention.name, _MARKS[row.own.state][1]), *cells)
    return table


def _marks(states: list[State]) -> Text:
    marks = Text()
    for state in states:
        marks.append(*_MARKS[state])
    return marks


def _finding(finding: Finding) -> Iterator[RenderableType]:
    head = Text()
    head.append(f"{finding.severity.upper()} ", STYLES[finding.severity])
    head.append(printable(finding.code), "bold")
    head.append(f" {printable(finding.kind)}", "dim")
    head.append("  at ", "dim")
    head.append(printable(finding.block_or_site), "bold")
    head.append(f"  confidence {finding.confidence:.2f}", "dim")
    yield head
    yield Padding(_said(finding.summary), (0, 0, 0, 2))
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=8, no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    if finding.source is not None:
        line = Text(printable(where(finding.source)), "cyan")
        if finding.source.text:
            line.append(f"  {printable(finding.source.text.strip())}", "dim")
        grid.add_row("line", line)
    for item in finding.evidence:
        grid.add_row("for", _evidence(item))
    for item in finding.counter_evidence:
        grid.add_row("against", _evidence(item))
    if finding.consequences:
        grid.add_row("explains", _said(", ".join(finding.consequences)))
    for other in finding.alternatives:
        grid.add_row("or else", _said(other, "dim"))
    for index, remedy in enumerate(finding.remedies, 1):
        grid.add_row(f"try {index}", _said(remedy, "green" if index == 1 else ""))
    yield Padding(grid, (0, 0, 0, 2))


def _evidence(item: Evidence) -> Text:
    said = _said(item.statement)
    numbers = []
    if item.value is not None:
        numbers.append(f"seen {number(item.value)}")
    if item.expected is not None:
        numbers.append(f"expected {number(item.expected)}")
    numbers.append("exact" if item.exact else printable(item.lens))
    said.append(f"  ({', '.join(numbers)})", "dim")
    return said


def _closing(diagnosis: Diagnosis) -> Iterator[RenderableType]:
    by_severity = [
        count(sum(finding.severity is severity for finding in diagnosis.findings), severity.value)
        for severity in Severity
        if any(finding.severity is severity for finding in diagnosis.findings)
    ]
    attentions = diagnosis.anatomy.attentions
    facts = [
        ", ".join(by_severity) or "no findings",
        f"{count(len(attentions), 'attention')}, {count(sum(item.n_heads for item in attentions), 'head')}",
        f"{count(len(diagnosis.readings), 'reading')}, {count(len(diagnosis.checked), 'rule')} asked",
        f"{diagnosis.seconds:.1f} s, {number(diagnosis.gradients)} gradients",
    ]
    yield Text(" · ".join(facts), "dim")
    for note in diagnosis.anatomy.notes:
        yield _said(f"note: {note}", "dim")
    inferred = [name for name, value in diagnosis.expects.items() if _inferred(name, value, diagnosis)]
    if inferred:
        yield _said(f"inferred, not stated: {', '.join(sorted(inferred))}", "dim")
    for name, reason in list(diagnosis.skipped.items())[:6]:
        yield _said(f"skipped {name}: {reason}", "dim")
    if len(diagnosis.skipped) > 6:
        yield Text(f"skipped {len(diagnosis.skipped) - 6} more (see --format json)", "dim")
    if diagnosis.findings:
        code = printable(diagnosis.findings[0].code)
        worth = "Confidence: how many such findings were right on planted mistakes."
        yield Text(f"attnscope explain {code} says more. {worth}", "dim")


def _inferred(name: str, value: object, diagnosis: Diagnosis) -> bool:
    if name == "inferred":
        return False
    listed = diagnosis.expects.get("inferred", ())
    if isinstance(value, dict):
        return bool(value.get("inferred"))
    return isinstance(listed, list | tuple) and name in listed
