"""Label, Evidence, Suspect, Finding, Diagnosis: what is said about a model, as plain data. No torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from html import escape
from pathlib import Path
from typing import Any

from attnscope.anatomy.blocks import Anatomy, Source
from attnscope.errors import RecordError
from attnscope.plain import maybe_float, plain, printable
from attnscope.readings import Reading
from attnscope.whole_file import write_whole

SCHEMA = 1


class Severity(StrEnum):
    """How much a finding matters. `error`: the model does not compute or learn what it says it does."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"

    @property
    def rank(self) -> int:
        """0 is the gravest."""
        return ("error", "warning", "note").index(self.value)


@dataclass(frozen=True)
class Label:
    """The ground truth of a fault.

    Attributes:
        kind: the fault's file name, which is also the rule's when there is one.
        places: blocks and sites that the fault changed; naming any of them is right.
        source: the line at fault, when it is in code.
        onset_step: when it began, in training steps.
        visibility: C snapshot curvature or gradient, U update or trajectory, A attention statistics,
            I exact identity, B time or memory.
    """

    kind: str
    places: tuple[str, ...]
    source: Source | None = None
    onset_step: int = 0
    visibility: str = "I"


@dataclass(frozen=True)
class Evidence:
    """One measured fact, for or against.

    Attributes:
        statement: a sentence with the number in it.
        lens: which reading it rests on; `anatomy` for what the trace saw.
        value, expected: the number seen, and the number or bound expected; None when it is not a number.
        exact: whether this is an identity (True) or a statistic (False).
    """

    statement: str
    lens: str
    value: float | None = None
    expected: float | None = None
    exact: bool = False


@dataclass(frozen=True)
class Suspect:
    """A claim that a rule makes: this kind of fault, at this place, on this evidence.

    Attributes:
        kind: the rule's file name.
        place: a block (`L2.K`, `L2H5.K`, `classifier.weight`) or a site (`L2.mask`, `model`, `data`).
        evidence, counter_evidence: for and against.
        confidence: in [0, 1]; 1 only for an identity whose violation has no other explanation.
        severity: overrides the rule's own, when the case calls for it.
        source: the user's line.
        effects: places whose oddness this claim explains; findings there are listed under this one.
        summary: one sentence for this very case; the rule's first line when empty.
        score: breaks ties between suspects of equal severity and confidence (larger is first).
    """

    kind: str
    place: str
    evidence: tuple[Evidence, ...]
    counter_evidence: tuple[Evidence, ...] = ()
    confidence: float = 1.0
    severity: Severity | None = None
    source: Source | None = None
    effects: tuple[str, ...] = ()
    summary: str = ""
    score: float = 0.0


@dataclass(frozen=True)
class Finding:
    """A suspect above its threshold, with a stable code.

    Attributes:
        code: stable, such as `ATT101`; never reused.
        kind: the rule's file name, such as `future_leak`.
        block_or_site: where; `layer`, `head` and `role` say the same in parts, None where not defined.
        confidence: the share of such findings that were right on planted mistakes (`diagnosis/calibration.py`).
        source: the user's line, or None.
        consequences: other findings' places that this one explains.
        alternatives: other causes that would look alike.
        remedies: what to try, cheapest first.
        fingerprint: identifies the finding across runs (for baselines).
        stated: the confidence as the rule states it, see `Suspect`.
    """

    code: str
    kind: str
    summary: str
    severity: Severity
    confidence: float
    block_or_site: str
    layer: int | None = None
    head: int | None = None
    role: str | None = None
    source: Source | None = None
    evidence: tuple[Evidence, ...] = ()
    counter_evidence: tuple[Evidence, ...] = ()
    consequences: tuple[str, ...] = ()
    alternatives: tuple[str, ...] = ()
    remedies: tuple[str, ...] = ()
    fingerprint: str = ""
    stated: float | None = None


@dataclass(frozen=True)
class Diagnosis:
    """What was found, ranked; an empty list of findings is the right answer on a healthy model.

    Attributes:
        findings: most serious, most certain, most upstream first.
        anatomy: where the attention is.
        readings: lens name -> reading; everything the findings rest on.
        name: the case's name.
        effort: `light`, `standard` or `deep`.
        expects: what the author stated, and what was inferred (`inferred: true`).
        checked: names of the rules that were asked, whether or not they found anything.
        skipped: lens or rule name -> why it did not run.
        interrupted: whether the user stopped it; what is here is still right.
        seconds, gradients: cost; `gradients` in gradients of the same model and batch.
        environment: torch version, device, precision, seed, attnscope version.
    """

    findings: tuple[Finding, ...]
    anatomy: Anatomy
    readings: Mapping[str, Reading] = field(default_factory=dict)
    name: str = ""
    effort: str = "standard"
    expects: Mapping[str, Any] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    checked: tuple[str, ...] = ()
    interrupted: bool = False
    seconds: float = 0.0
    gradients: float = 0.0
    environment: Mapping[str, Any] = field(default_factory=dict)

    def at_least(self, severity: Severity | str) -> tuple[Finding, ...]:
        """The findings of that severity or graver."""
        bound = Severity(severity).rank
        return tuple(finding for finding in self.findings if finding.severity.rank <= bound)

    def without(self, fingerprints: set[str]) -> Diagnosis:
        """The same diagnosis, less the findings of a baseline."""
        kept = tuple(finding for finding in self.findings if finding.fingerprint not in fingerprints)
        return replace(self, findings=kept)

    def made_by(self, command: str) -> Diagnosis:
        """The same diagnosis, with the command that makes it again."""
        return replace(self, environment={**self.environment, "command": command})

    def verdict(self) -> str:
        """One sentence."""
        serious = self.at_least(Severity.WARNING)
        if not self.anatomy.attentions:
            start = "No attention was found in this model."
            return start if not serious else f"{start} {serious[0].summary}"
        if not serious:
            count = len(self.anatomy.attentions)
            partial = " so far" if self.interrupted else ""
            return f"Nothing found{partial}: {count} attention{'s' * (count != 1)} checked."
        first = serious[0]
        more = f" ({len(serious) - 1} more)" if len(serious) > 1 else ""
        return f"{first.summary} [{first.code} at {first.block_or_site}]{more}"

    def __str__(self) -> str:
        """The short terminal form: the verdict, then one paragraph a finding."""
        lines = [printable(f"{self.name or self.anatomy.model_class}: {self.verdict()}")]
        for finding in self.findings:
            where = f", {finding.source}" if finding.source else ""
            head = f"{finding.severity.upper()} {finding.code} at {finding.block_or_site}{where}"
            reasons = [f"    + {evidence.statement}" for evidence in finding.evidence[:2]]
            remedy = [f"    try: {finding.remedies[0]}"] if finding.remedies else []
            lines += [printable(line) for line in ("", head, f"    {finding.summary}", *reasons, *remedy)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """What a notebook shows: the map when pages are loaded, else a table."""
        if _drawn_in_notebooks is not None:
            return _drawn_in_notebooks(self)
        rows = "".join(
            "<tr>" + "".join(
                f'<td style="text-align:left;vertical-align:top">{escape(printable(cell))}</td>'
                for cell in (
                    finding.severity.value, finding.code, finding.block_or_site, finding.summary,
                    str(finding.source or ""),
                )
            ) + "</tr>"
            for finding in self.findings
        )
        heads = "".join(
            f'<th style="text-align:left">{name}</th>'
            for name in ("severity", "code", "place", "finding", "source")
        )
        table = f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>" if rows else ""
        colour = "#b3401f" if self.at_least(Severity.WARNING) else "#1c7a5c"
        return (
            f'<div><p style="border-left:4px solid {colour};padding-left:.7em;font-size:1.1em">'
            f"{escape(printable(self.verdict()))}</p>{table}</div>"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, with a schema number."""
        data = {
            **{
                name: getattr(self, name)
                for name in ("name", "effort", "interrupted", "seconds", "gradients")
            },
            "schema": SCHEMA,
            "verdict": self.verdict(),
            "expects": plain(dict(self.expects)),
            "checked": list(self.checked),
            "skipped": plain(dict(self.skipped)),
            "environment": plain(dict(self.environment)),
            "findings": [plain(asdict(finding)) for finding in self.findings],
            "anatomy": self.anatomy.to_dict(),
            "readings": {name: reading.to_dict() for name, reading in self.readings.items()},
        }
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Diagnosis:
        """The inverse of `to_dict`.

        Raises:
            RecordError: the data are not a diagnosis of this schema.
        """
        if not isinstance(data, Mapping) or data.get("schema") != SCHEMA:
            seen = data.get("schema") if isinstance(data, Mapping) else type(data).__name__
            raise RecordError(
                f"expected a diagnosis of schema {SCHEMA}, found {seen!r}; make it again with `check`"
            )
        try:
            return cls(
                findings=tuple(_finding(item) for item in data["findings"]),
                anatomy=Anatomy.from_dict(data["anatomy"]),
                readings={name: Reading.from_dict(item) for name, item in data["readings"].items()},
                checked=tuple(data.get("checked", ())),
                **{
                    name: data[name]
                    for name in (
                        "name", "effort", "expects", "skipped", "interrupted", "seconds", "gradients",
                        "environment",
                    )
                },
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RecordError(f"the diagnosis is incomplete or damaged ({error!r}); make it again") from error

    def save(self, path: str | Path) -> Path:
        """Writes the diagnosis as JSON; the file appears whole or not at all."""
        return write_whole(path, json.dumps(self.to_dict(), indent=1, allow_nan=False))

    @classmethod
    def open(cls, path: str | Path) -> Diagnosis:
        """Reads what `save` wrote.

        Raises:
            RecordError: there is no such file, or it is not a whole diagnosis.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise RecordError(f"cannot read {path}: {error.strerror or error}") from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise RecordError(
                f"{path} is not whole JSON ({error}); make it again with `check --save`"
            ) from error
        return cls.from_dict(data)


def draw_in_notebooks(draw: Callable[[Diagnosis], str]) -> None:
    """Lets a higher layer draw every diagnosis in notebooks; this one may not import it.

    Args:
        draw: from a diagnosis to HTML without scripts.
    """
    global _drawn_in_notebooks
    _drawn_in_notebooks = draw


_drawn_in_notebooks: Callable[[Diagnosis], str] | None = None


def _finding(data: Mapping[str, Any]) -> Finding:
    values = dict(data)
    values["severity"] = Severity(values["severity"])
    values["source"] = Source(**values["source"]) if values["source"] else None
    for name in ("evidence", "counter_evidence"):
        values[name] = tuple(_evidence(item) for item in values[name])
    for name in ("consequences", "alternatives", "remedies"):
        values[name] = tuple(values[name])
    return Finding(**values)


def _evidence(data: Mapping[str, Any]) -> Evidence:
    numbers = {name: maybe_float(data.get(name)) for name in ("value", "expected")}
    return Evidence(**{**data, **numbers})
