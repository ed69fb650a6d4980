"""Which numbers speak of which place, what lenses say of themselves, what would prove a finding wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import attnscope
import diagnoses
from attnscope.explanations import Page
from attnscope.pages.cards import checks, falsifiers, finding_cards
from attnscope.pages.lens_notes import lens_note
from attnscope.pages.notebook import as_html
from attnscope.pages.places import by_place, entries, grouped, touching
from attnscope.pages.prose import clipped, inline, name, path, prose, sentence
from attnscope.readings import Reading

HEADS = Reading("entropy", np.arange(6.0).reshape(2, 3), ("layer", "head"), "nats")
ROLES = Reading("norm", np.ones((2, 2)), ("layer", "role"), "1", {"role": ("query", "value")})
BLOCKS = Reading("gradient", np.ones(3), ("block",), "1", {"block": ("L0.Q", "L1H2.V", "classifier")})
STEPS = Reading("loss", np.ones(5), ("step",), "1")


def test_entries_name_their_places() -> None:
    assert dict(entries(HEADS))["L1H2"] == (1, 2)
    assert dict(entries(ROLES))["L1.V"] == (1, 1)
    assert dict(entries(BLOCKS)) == {"L0.Q": (0,), "L1H2.V": (1,), "classifier": (2,)}
    assert list(entries(STEPS)) == []


def test_what_is_not_a_number_speaks_of_nothing() -> None:
    values = np.arange(6.0).reshape(2, 3)
    values[1, 2] = np.nan
    assert "L1H2" not in dict(entries(Reading("x", values, ("layer", "head"), "1")))


def test_a_head_collects_its_projections() -> None:
    found = by_place({"entropy": HEADS, "gradient": BLOCKS})
    assert found["L1H2"] == [("entropy", (1, 2)), ("gradient", (1,))]


@pytest.mark.parametrize(
    ("reading", "place", "expected"),
    [
        (HEADS, "L1H2", ("L1H2", [(1, 2)])),
        (HEADS, "L1H2.V", ("L1H2", [(1, 2)])),
        (BLOCKS, "L1H2.V", ("L1H2.V", [(1,)])),
        (ROLES, "L1H2.V", ("L1.V", [(1, 1)])),
        (HEADS, "L0.mask", ("the heads and projections of L0", [(0, 0), (0, 1), (0, 2)])),
        (BLOCKS, "classifier", ("classifier", [(2,)])),
        (BLOCKS, "L1.V", ("the heads and projections of L1", [(1,)])),
        (BLOCKS, "L1.K", ("the heads and projections of L1", [])),
        (HEADS, "classifier", ("", [])),
        (STEPS, "L0", ("the heads and projections of L0", [])),
    ],
)
def test_the_nearest_numbers_bear_on_a_place(reading: Reading, place: str, expected: tuple[str, list]) -> None:
    assert touching(grouped(reading), place) == expected


def test_lenses_are_read_from_their_source() -> None:
    folder = Path(attnscope.__file__).parent / "lenses"
    members = [path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")]
    for member in members:
        note = lens_note(member)
        assert note.line, member
        assert note.measures, member
        assert note.reading_it, member
        assert note.topic


@pytest.mark.parametrize("unknown", ["no_such_lens", "../secrets", "", "<script>", "Entropy"])
def test_unknown_lenses_have_a_title_only(unknown: str) -> None:
    note = lens_note(unknown)
    assert (note.line, note.reading_it) == ("", "")


def test_each_check_has_a_result() -> None:
    found = {check.rule.kind: check for _, group in checks(diagnoses.faulty()) for check in group}
    assert found["padding_attended"].state == "found"
    assert found["padding_attended"].cards == (0,)
    calm = {check.rule.kind: check for _, group in checks(diagnoses.healthy()) for check in group}
    assert calm["padding_attended"].state == "clear"
    assert calm["padding_attended"].ranges[0][1] == "0"


def test_what_would_prove_a_finding_wrong_comes_from_its_numbers_and_its_rule() -> None:
    finding = diagnoses.findings()[0]
    rule = Page("MSK102", "padding_attended", "error", "masks", "x", (("How to confirm", "Run it alone."),))
    said = falsifiers(finding, rule)
    assert any("0 and not 0.43" in words for words in said)
    assert any("run it alone." in words for words in said)
    assert falsifiers(diagnoses.findings()[2], None)


def test_pictures_show_a_lens_once_and_name_what_they_mark() -> None:
    diagnosis = diagnoses.faulty()
    places = {lens: grouped(reading) for lens, reading in diagnosis.readings.items()}
    card = finding_cards(diagnosis, places, 10)[0]
    assert [bool(item.picture) for item in card.evidence] == [True, False]
    assert card.evidence[0].here == "the heads and projections of L3"
    assert not any(item.picture for item in card.counter_evidence)


def test_prose_keeps_code_and_escapes_the_rest() -> None:
    assert inline("use `a<b` now") == "use <code>a&lt;b</code> now"
    assert prose("one\n\n- a\n- b") == "<p>one</p><ul><li>a</li><li>b</li></ul>"
    assert sentence("check that it runs") == "Check that it runs"
    assert sentence("torch.nn is here") == "torch.nn is here"
    assert sentence("`mask` is here") == "<code>mask</code> is here"
    assert sentence("") == ""
    assert path("a/<b>/c.py") == '<bdi class="path">a/<wbr>&lt;b&gt;/<wbr>c.py</bdi>'
    assert name("<b>\u202e") == "<bdi>&lt;b&gt;\\u202e</bdi>"
    assert len(clipped("x" * 10_000)) < 500


def test_the_notebook_form_is_inert_and_complete() -> None:
    for diagnosis in (diagnoses.faulty(), diagnoses.hostile(), diagnoses.healthy(), diagnoses.without_attention()):
        shown = as_html(diagnosis)
        for forbidden in ("<script", "<img", "<style", "<link", "http:", "\u202e"):
            assert forbidden not in shown
    shown = as_html(diagnoses.faulty())
    assert diagnoses.faulty()._repr_html_() == shown
    for finding in diagnoses.findings():
        assert finding.code in shown
    assert "layer 3, mask: error" in shown
    assert "Nothing found" in as_html(diagnoses.healthy())
