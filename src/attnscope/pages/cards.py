"""What a finding's card and a rule's check say, as plain data for the template."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from attnscope.explanations import GROUPS, Page, all_rules
from attnscope.findings import Diagnosis, Evidence, Finding
from attnscope.formats.numbers import typeset
from attnscope.pages.figures import strip
from attnscope.pages.lens_notes import LensNote, lens_note
from attnscope.pages.places import Index, touching
from attnscope.readings import Reading

Places = Mapping[str, Mapping[str, list[Index]]]


@dataclass(frozen=True)
class EvidenceCard:
    """One piece of evidence with its picture."""

    evidence: Evidence
    note: LensNote
    here: str = ""
    picture: str = ""


@dataclass(frozen=True)
class FindingCard:
    """One finding with all that a person needs to believe it, doubt it and act on it."""

    number: int
    finding: Finding
    evidence: tuple[EvidenceCard, ...]
    counter_evidence: tuple[EvidenceCard, ...]
    falsifiers: tuple[str, ...]
    rule: Page | None


@dataclass(frozen=True)
class Check:
    """One rule and what came of asking it.

    Attributes:
        state: `found`, `clear` or `skipped`.
        result: a few words.
        cards: numbers of the findings of this rule.
        ranges: the readings it looked at, with their range.
    """

    rule: Page
    state: str
    result: str
    cards: tuple[int, ...] = ()
    ranges: tuple[tuple[LensNote, str], ...] = ()


def finding_cards(diagnosis: Diagnosis, places: Places, most: int) -> list[FindingCard]:
    """The cards of the first findings, in their order.

    Args:
        diagnosis: what was found.
        places: lens -> place -> the entries of its reading there.
        most: how many findings get a card.
    """
    rules = {page.code: page for page in all_rules()}
    return [_card(number, finding, diagnosis, places, rules.get(finding.code))
            for number, finding in enumerate(diagnosis.findings[:most])]


def checks(diagnosis: Diagnosis) -> list[tuple[str, list[Check]]]:
    """Every rule that was asked or could not be, by group, with its result."""
    by_kind: dict[str, list[int]] = {}
    for number, finding in enumerate(diagnosis.findings):
        by_kind.setdefault(finding.kind, []).append(number)
    grouped: dict[str, list[Check]] = {}
    for rule in all_rules():
        check = _check(rule, diagnosis, by_kind.get(rule.kind, []))
        if check is not None:
            grouped.setdefault(rule.group or "others", []).append(check)
    order = [name for name in GROUPS.values() if name in grouped]
    return [(name, grouped[name]) for name in (*order, *sorted(set(grouped) - set(order)))]


def range_of(reading: Reading) -> str:
    """`0.1 to 3.2`, or the one value."""
    finite = reading.values[np.isfinite(reading.values)]
    if not finite.size:
        return "no value"
    low, high = typeset(float(finite.min())), typeset(float(finite.max()))
    return low if low == high else f"{low} to {high}"


def _check(rule: Page, diagnosis: Diagnosis, found: Sequence[int]) -> Check | None:
    """None when the diagnosis does not say whether the rule was asked, and nothing it reads was read."""
    usable = [name for name in rule.needs if name in diagnosis.readings and diagnosis.readings[name].ok]
    ranges = tuple((lens_note(name), range_of(diagnosis.readings[name])) for name in usable)
    if found:
        first = diagnosis.findings[found[0]]
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        return Check(rule, "found", f"found at {first.block_or_site}{more}", tuple(found), ranges)
    if rule.kind in diagnosis.skipped:
        return Check(rule, "skipped", diagnosis.skipped[rule.kind], (), ranges)
    if rule.kind not in diagnosis.checked:
        return None
    if rule.needs and not usable:
        why = [diagnosis.readings[name].note for name in rule.needs if name in diagnosis.readings]
        return Check(rule, "skipped", next(filter(None, why), "nothing it reads could be read"), (), ())
    return Check(rule, "clear", "nothing found", (), ranges)


def _card(
    number: int, finding: Finding, diagnosis: Diagnosis, places: Places, rule: Page | None,
) -> FindingCard:
    return FindingCard(
        number, finding,
        tuple(_pictured(finding, diagnosis.readings, places)),
        tuple(EvidenceCard(item, lens_note(item.lens)) for item in finding.counter_evidence),
        tuple(falsifiers(finding, rule)), rule,
    )


def _pictured(
    finding: Finding, readings: Mapping[str, Reading], places: Places
) -> Iterator[EvidenceCard]:
    """Each piece of evidence; the first of a lens with a picture of where the place lies among all places."""
    drawn: set[str] = set()
    for item in finding.evidence:
        note, reading = lens_note(item.lens), readings.get(item.lens)
        if reading is None or reading.values.size < 2 or item.lens in drawn:
            yield EvidenceCard(item, note)
            continue
        drawn.add(item.lens)
        here, indices = touching(places[item.lens], finding.block_or_site)
        finite = [value for value in (float(reading.values[index]) for index in indices) if np.isfinite(value)]
        picture = strip(reading, finite[:64], expected=item.expected) if finite else ""
        yield EvidenceCard(item, note, here, picture)


def falsifiers(finding: Finding, rule: Page | None) -> list[str]:
    """What, if seen, would take the finding back: from its own numbers, then from its rule."""
    said = []
    for item in finding.evidence:
        if item.value is None or item.expected is None:
            continue
        title = lens_note(item.lens).title
        seen, due = typeset(item.value), typeset(item.expected)
        if item.exact:
            said.append(f"Measured again, “{title}” comes out as {due} and not {seen}. This is an identity, so "
                        "one clean measurement is enough.")
        else:
            said.append(f"On other batches “{title}” is near {due}, where it is {seen} here.")
    if rule is not None:
        confirm = dict(rule.sections).get("How to confirm", "")
        if confirm:
            said.append(f"This test shows nothing wrong: {_lowered(confirm)}")
        false_alarm = dict(rule.sections).get("When it is a false alarm", "")
        if false_alarm:
            said.append(f"It is a false alarm if this holds: {_lowered(false_alarm)}")
    unique = list(dict.fromkeys(said))
    return unique or ["No test is recorded for this kind; the alternatives below are what to rule out."]


def _lowered(sentence: str) -> str:
    """The sentence as the continuation of another."""
    first, rest = sentence[:1], sentence[1:]
    return sentence if rest[:1].isupper() else first.lower() + rest
