"""GitHub annotations: one workflow command a finding, which a pull request shows beside the line."""

from __future__ import annotations

from pathlib import Path

from attnscope.findings import Diagnosis, Finding, Severity
from attnscope.formats.files import inside
from attnscope.plain import printable

_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "notice"}


def to_github(diagnosis: Diagnosis, *, root: str | Path | None = None) -> str:
    """Workflow commands, one a line.

    Args:
        diagnosis: what was found.
        root: the checkout, to which file names are made relative; the working directory when None.

    Returns:
        `::error file=model.py,line=63,title=MSK101 at L2.mask::...`; one notice when nothing was found.
    """
    if not diagnosis.findings:
        return f"::notice title=attnscope::{_data(printable(diagnosis.verdict()))}"
    return "\n".join(_command(finding, root) for finding in diagnosis.findings)


def _command(finding: Finding, root: str | Path | None) -> str:
    properties = {}
    if finding.source is not None:
        properties = {"file": inside(finding.source.file, root), "line": str(max(finding.source.line, 1))}
    properties["title"] = printable(f"{finding.code} at {finding.block_or_site}")
    named = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
    lines = [finding.summary, *(f"+ {item.statement}" for item in finding.evidence)]
    lines += [f"- {item.statement}" for item in finding.counter_evidence]
    lines += [f"try: {remedy}" for remedy in finding.remedies[:1]]
    message = "\n".join(printable(line) for line in lines)
    return f"::{_LEVELS[finding.severity]} {named}::{_data(message)}"


def _data(text: str) -> str:
    """The message part: GitHub reads these escapes back."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """A property also ends at a colon or a comma."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")
