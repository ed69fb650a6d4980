"""From suspects to ranked findings: the same cause once, its consequences under it, most serious first."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from attnscope.anatomy.blocks import ROLE_LETTERS, Anatomy, Attention, Role, Source, Step, parse_place
from attnscope.diagnosis.calibration import measured
from attnscope.diagnosis.rules import Examination, Rule
from attnscope.errors import CatalogueError
from attnscope.findings import Evidence, Finding, Severity, Suspect

_LETTERS = {letter: role for role, letter in ROLE_LETTERS.items()}
_WITHIN_LAYER = (
    "norm",
    "Q",
    "K",
    "QK",
    "V",
    "positions",
    "cache",
    "scores",
    "scale",
    "mask",
    "softmax",
    "dropout",
    "heads",
    "O",
    "residual",
)
_FIRST_ROLES = (Role.EMBEDDING, Role.POSITIONS, Role.ENCODER)


@dataclass(frozen=True)
class Weighed:
    """A suspect and the rule that named it."""

    rule: Rule
    suspect: Suspect

    @property
    def severity(self) -> Severity:
        """The suspect's own severity, else the rule's."""
        return self.suspect.severity or self.rule.severity


def chosen(rules: Sequence[Rule], select: Sequence[str] = (), ignore: Sequence[str] = ()) -> tuple[Rule, ...]:
    """The rules that `select` and `ignore` leave, by code, code prefix (`MSK`) or kind.

    Raises:
        CatalogueError: an entry matches no rule.
    """
    for entry in (*select, *ignore):
        if not any(_matches(rule, entry) for rule in rules):
            raise CatalogueError(f"no code, group or kind {entry!r}; `attnscope rules` lists them")
    return tuple(
        rule
        for rule in rules
        if (not select or any(_matches(rule, entry) for entry in select))
        and not any(_matches(rule, entry) for entry in ignore)
    )


def weigh(examination: Examination, rules: Sequence[Rule]) -> tuple[list[Weighed], dict[str, str]]:
    """Asks every rule that has something to look at.

    Returns:
        The suspects, and the rules that could not be asked with the reason.
    """
    weighed: list[Weighed] = []
    skipped: dict[str, str] = {}
    for rule in rules:
        if rule.needs and not any(name in examination.readings for name in rule.needs):
            skipped[rule.kind] = f"none of its readings was taken: {', '.join(rule.needs)}"
            continue
        try:
            weighed += [Weighed(rule, suspect) for suspect in rule.weigh(examination)]
        except Exception as error:  # one broken rule must not cost the user the others
            skipped[rule.kind] = f"the rule failed: {type(error).__name__}: {error}"
    return weighed, skipped


def rank(examination: Examination, weighed: Sequence[Weighed]) -> tuple[Finding, ...]:
    """The findings, most serious, most certain, most upstream first; consequences are listed, not repeated."""
    anatomy = examination.anatomy
    merged = _once_per_line(sorted(weighed, key=lambda item: _order(item, anatomy)))
    roots = _roots(merged)
    findings = []
    for index, item in enumerate(merged):
        if roots[index] == index:
            explained = [
                merged[other] for other in range(len(merged)) if other != index and roots[other] == index
            ]
            findings.append(_finding(_with_source(item, anatomy), explained, anatomy))
    return tuple(findings)


def _matches(rule: Rule, entry: str) -> bool:
    return rule.code.startswith(entry.upper()) or rule.kind == entry.lower()


def _order(item: Weighed, anatomy: Anatomy) -> tuple[int, float, float, float, str]:
    suspect = item.suspect
    certainty = round(suspect.confidence, 1)
    return item.severity.rank, -certainty, _upstream(suspect.place, anatomy), -suspect.score, suspect.kind


def _upstream(place: str, anatomy: Anatomy) -> float:
    """How early in the data flow a place is; smaller is earlier."""
    layer, _, what = parse_place(place)
    if layer is not None:
        within = _WITHIN_LAYER.index(what) if what in _WITHIN_LAYER else len(_WITHIN_LAYER)
        return layer + (within + 1) / (len(_WITHIN_LAYER) + 2)
    if place == "data":
        return -3.0
    for block in anatomy.blocks:
        if block.name == place:
            if block.role in _FIRST_ROLES:
                return -2.0
            return 1e5 if block.layer is None else block.layer + 0.99
    return -2.0 if place == "positions" else 1e6


def _once_per_line(ordered: Sequence[Weighed]) -> list[Weighed]:
    """One suspect per kind and place, and per kind and line of code: a line run by six layers is one mistake."""
    kept: list[Weighed] = []
    others: dict[int, list[str]] = {}
    for item in ordered:
        twin = next((index for index, first in enumerate(kept) if _same_mistake(first, item)), None)
        if twin is None:
            kept.append(item)
        elif item.suspect.place != kept[twin].suspect.place:
            places = others.setdefault(twin, [])
            if item.suspect.place not in places:
                places.append(item.suspect.place)
    return [_also(item, others[index]) if index in others else item for index, item in enumerate(kept)]


def _same_mistake(first: Weighed, second: Weighed) -> bool:
    one, two = first.suspect, second.suspect
    if one.kind != two.kind:
        return False
    if one.place == two.place:
        return True
    same_line = one.source is not None and (one.source.file, one.source.line) == (
        (two.source.file, two.source.line) if two.source else None
    )
    return same_line and first.severity is second.severity


def _also(item: Weighed, places: list[str]) -> Weighed:
    suspect = item.suspect
    shown = ", ".join(places[:6]) + (f" and {len(places) - 6} more" if len(places) > 6 else "")
    also = Evidence(f"the same at {shown}, from the same line of code", "anatomy", float(len(places)))
    return Weighed(
        item.rule, replace(suspect, evidence=(*suspect.evidence, also), effects=(*suspect.effects, *places))
    )


def _roots(items: Sequence[Weighed]) -> list[int]:
    """For each suspect the index of the cause that explains it; its own when it is a cause itself."""
    parents = [_parent(items, index) for index in range(len(items))]
    roots = []
    for index in range(len(items)):
        seen, current = {index}, index
        while parents[current] != current and parents[current] not in seen:
            current = parents[current]
            seen.add(current)
        roots.append(current)
    return roots


def _parent(items: Sequence[Weighed], index: int) -> int:
    """The best-ranked suspect that explains this one; of two that explain each other the better-ranked stays."""
    item = items[index]
    for other, cause in enumerate(items):
        if other == index or cause.severity.rank > item.severity.rank or not _explains(cause, item):
            continue
        if _explains(item, cause) and index < other:
            continue
        return other
    return index


def _explains(cause: Weighed, item: Weighed) -> bool:
    """Whether one of the cause's effects names the other's place (and its kind), or the other is a mere symptom."""
    if item.rule.symptom and not _is_exact(item):
        if cause.rule.symptom and cause.suspect.score > item.suspect.score:
            return True  # of several changes that each lower the loss, the one that lowers it most
        if not cause.rule.symptom and _is_exact(cause):
            return True
    for effect in cause.suspect.effects:
        kind, _, place = effect.rpartition("@")
        if (not kind or fnmatchcase(item.suspect.kind, kind)) and _covers(place, item.suspect.place):
            return True
    return False


def _is_exact(item: Weighed) -> bool:
    return any(fact.exact for fact in item.suspect.evidence)


def _covers(pattern: str, place: str) -> bool:
    """`L2.K` covers `L2H3.K`, `L2` and `L2.*` cover all of layer 2, `*` everything."""
    if fnmatchcase(place, pattern):
        return True
    layer, head, what = parse_place(pattern.removesuffix(".*"))
    other_layer, other_head, other_what = parse_place(place)
    if layer is None or layer != other_layer:
        return False
    return (head is None or head == other_head) and (not what or what == other_what)


def _finding(item: Weighed, explained: Sequence[Weighed], anatomy: Anatomy) -> Finding:
    suspect, rule = item.suspect, item.rule
    observed = [effect for effect in suspect.effects if "@" not in effect and "*" not in effect]
    swallowed = [other.suspect.place for other in explained]
    consequences = [place for place in dict.fromkeys([*observed, *swallowed]) if place != suspect.place]
    layer, head, role = _parts(suspect.place, anatomy)
    return Finding(
        code=rule.code,
        kind=suspect.kind,
        summary=suspect.summary or _first_line(rule),
        severity=item.severity,
        confidence=measured().probability(suspect.kind, suspect.confidence),
        block_or_site=suspect.place,
        layer=layer,
        head=head,
        role=role,
        source=suspect.source,
        evidence=suspect.evidence,
        counter_evidence=suspect.counter_evidence,
        consequences=tuple(consequences),
        alternatives=rule.alternatives,
        remedies=rule.remedies,
        fingerprint=_fingerprint(rule.code, suspect.place, anatomy, layer),
        stated=suspect.confidence,
    )


def _first_line(rule: Rule) -> str:
    return (type(rule).__doc__ or rule.kind).strip().splitlines()[0]


def _parts(place: str, anatomy: Anatomy) -> tuple[int | None, int | None, str | None]:
    layer, head, what = parse_place(place)
    if what in _LETTERS:
        return layer, head, _LETTERS[what].value
    for block in anatomy.blocks:
        if block.name == place:
            return block.layer, block.head, block.role.value
    return layer, head, None


def _fingerprint(code: str, place: str, anatomy: Anatomy, layer: int | None) -> str:
    """The same across runs and edits: no line number, no measured value."""
    module = next((item.module for item in anatomy.attentions if item.layer == layer), "")
    return hashlib.sha256(f"{code}|{place}|{module}|{anatomy.model_class}".encode()).hexdigest()[:16]


def _with_source(item: Weighed, anatomy: Anatomy) -> Weighed:
    """The suspect with a line of code: its own, else the step of the attention where its place is used."""
    if item.suspect.source is not None:
        return item
    source = source_of(item.suspect.place, anatomy)
    return item if source is None else Weighed(item.rule, replace(item.suspect, source=source))


def source_of(place: str, anatomy: Anatomy) -> Source | None:
    """The line at which a site acts or a block is used, None when the trace does not know it."""
    block = next((item for item in (*anatomy.blocks, *anatomy.head_blocks()) if item.name == place), None)
    if block is not None and block.source is not None:
        return block.source
    layer, _, what = parse_place(place)
    attention = next((item for item in anatomy.attentions if item.layer == layer), None)
    if attention is None:
        return None
    return next((step.source for step in _steps(attention, what) if step is not None and step.source), None)


def _steps(attention: Attention, what: str) -> tuple[Step | None, ...]:
    scores, softmax, values = attention.score_step, attention.softmax, attention.value_step
    return {
        "mask": (*attention.mask, scores, softmax),
        "scale": (attention.scale_step, scores, softmax),
        "softmax": (softmax, scores),
        "dropout": (*attention.dropout, values),
        "residual": (attention.residual_step, values),
        "V": (values,),
        "O": (values,),
    }.get(what, (scores, softmax, values))
