"""SARIF 2.1.0, which code-scanning services read: a result points at the user's line, layer and head."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attnscope.explanations import Page, all_rules
from attnscope.findings import Diagnosis, Finding, Severity
from attnscope.formats.files import uri
from attnscope.formats.numbers import number

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
DOCUMENTATION = "https://github.com/attnscope/attnscope/tree/main/docs/rules"
_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "note"}


def to_sarif(diagnosis: Diagnosis, *, root: str | Path | None = None) -> str:
    """The diagnosis as a SARIF 2.1.0 log.

    Args:
        diagnosis: what was found.
        root: the checkout, to which file names are made relative; the working directory when None.

    Returns:
        JSON text.
    """
    pages = {page.code: page for page in all_rules()}
    codes = list(dict.fromkeys(finding.code for finding in diagnosis.findings))
    rules = [_rule(code, pages.get(code), diagnosis.findings) for code in codes]
    driver = {
        "name": "attnscope",
        "informationUri": "https://github.com/attnscope/attnscope",
        "rules": rules,
    }
    version = diagnosis.environment.get("attnscope")
    if version:
        driver["version"] = str(version)
    run = {
        "tool": {"driver": driver},
        "invocations": [_invocation(diagnosis)],
        "results": [
            _result(finding, codes.index(finding.code), diagnosis, root) for finding in diagnosis.findings
        ],
        "columnKind": "unicodeCodePoints",
        "properties": {"verdict": diagnosis.verdict(), "case": diagnosis.name, "effort": diagnosis.effort},
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1, allow_nan=False)


def _rule(code: str, page: Page | None, findings: Sequence[Finding]) -> dict[str, Any]:
    """A reporting descriptor: its help is the rule's own page."""
    first = next(finding for finding in findings if finding.code == code)
    kind = page.kind if page else first.kind
    summary = page.summary if page else first.summary
    rule: dict[str, Any] = {
        "id": code,
        "name": "".join(part.capitalize() for part in kind.split("_")),
        "shortDescription": {"text": summary},
        "defaultConfiguration": {"level": page.severity if page else _LEVELS[first.severity]},
    }
    if page:
        rule["fullDescription"] = {"text": dict(page.sections).get("What it means", summary)}
        rule["help"] = {"text": _without_marks(page.markdown()), "markdown": page.markdown()}
        rule["helpUri"] = f"{DOCUMENTATION}/{code}.md"
        rule["properties"] = {"tags": ["attention", page.group]}
    return rule


def _result(finding: Finding, index: int, diagnosis: Diagnosis, root: str | Path | None) -> dict[str, Any]:
    lines = [finding.summary, *(f"+ {item.statement}" for item in finding.evidence)]
    lines += [f"- {item.statement}" for item in finding.counter_evidence]
    lines += [f"Try: {item}" for item in finding.remedies[:1]]
    return {
        "ruleId": finding.code,
        "ruleIndex": index,
        "kind": "fail",
        "level": _LEVELS[finding.severity],
        "message": {"text": "\n".join(lines)},
        "locations": [_location(finding, diagnosis, root)],
        "partialFingerprints": {"attnscope/v1": finding.fingerprint or _fingerprint(finding)},
        "properties": {
            "confidence": round(finding.confidence, 4),
            "place": finding.block_or_site,
            "consequences": list(finding.consequences),
            "alternatives": list(finding.alternatives),
            "remedies": list(finding.remedies),
            "numbers": [
                {"lens": item.lens, "seen": number(item.value), "expected": number(item.expected)}
                for item in (*finding.evidence, *finding.counter_evidence)
            ],
        },
    }


def _location(finding: Finding, diagnosis: Diagnosis, root: str | Path | None) -> dict[str, Any]:
    """The line in the file, and the place in the model."""
    location: dict[str, Any] = {"logicalLocations": _logical(finding, diagnosis)}
    if finding.source is not None:
        region: dict[str, Any] = {"startLine": max(finding.source.line, 1)}
        if finding.source.text:
            region["snippet"] = {"text": finding.source.text}
        artifact = {"uri": uri(finding.source.file, root)}
        if not artifact["uri"].startswith("file://"):
            artifact["uriBaseId"] = "%SRCROOT%"
        location["physicalLocation"] = {"artifactLocation": artifact, "region": region}
    return location


def _logical(finding: Finding, diagnosis: Diagnosis) -> list[dict[str, Any]]:
    """From the place outwards: the block or site, its head, its layer's module."""
    places: list[dict[str, Any]] = [
        {"name": finding.block_or_site, "fullyQualifiedName": finding.block_or_site, "kind": "member"}
    ]
    if finding.layer is not None:
        layer = f"L{finding.layer}"
        if finding.head is not None:
            places.append({"name": f"head {finding.head}", "fullyQualifiedName": f"{layer}H{finding.head}",
                           "kind": "member"})
        attentions = diagnosis.anatomy.attentions
        module = next((item.module for item in attentions if item.layer == finding.layer), "")
        places.append({"name": layer, "fullyQualifiedName": module or layer, "kind": "module"})
    return places


def _fingerprint(finding: Finding) -> str:
    said = "\0".join((finding.code, finding.block_or_site, finding.source.file if finding.source else ""))
    return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _invocation(diagnosis: Diagnosis) -> dict[str, Any]:
    """Whether the run was whole, and what it could not do."""
    notes = [
        {"level": "note", "message": {"text": f"{name} was skipped: {reason}"}}
        for name, reason in diagnosis.skipped.items()
    ]
    notes += [{"level": "note", "message": {"text": note}} for note in diagnosis.anatomy.notes]
    return {"executionSuccessful": not diagnosis.interrupted, "toolExecutionNotifications": notes}


def _without_marks(markdown: str) -> str:
    """Markdown that reads well as plain text."""
    return "\n".join(line.lstrip("# ") if line.startswith("#") else line for line in markdown.splitlines())
