"""The page as text: whole, small, self-contained, inert, and made without torch."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import diagnoses
from attnscope.errors import RecordError
from attnscope.findings import Diagnosis, Severity
from attnscope.pages import page as pages
from attnscope.pages.page import LARGEST, digest, expectations, html, report
from attnscope.readings import Reading

CASES = {
    "faulty": diagnoses.faulty, "healthy": diagnoses.healthy, "hostile": diagnoses.hostile,
    "no attention": diagnoses.without_attention, "deep": lambda: diagnoses.faulty(24, 16),
}
VOID = {"meta", "br", "wbr", "input", "link", "img", "hr"}


class Reader(HTMLParser):
    """What a browser would see: elements, attributes, text of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[str] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self.unbalanced: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.inside.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.inside or self.inside.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data: str) -> None:
        if self.inside and self.inside[-1] in self.raw:
            self.raw[self.inside[-1]].append(data)


@pytest.fixture(scope="module", params=CASES)
def written(request: pytest.FixtureRequest) -> tuple[Diagnosis, str]:
    diagnosis = CASES[request.param]()
    return diagnosis, html(diagnosis)


def test_every_element_is_closed(written: tuple[Diagnosis, str]) -> None:
    reader = Reader(written[1])
    assert reader.unbalanced == []
    assert reader.inside == []


def test_identifiers_are_unique_and_references_hold(written: tuple[Diagnosis, str]) -> None:
    tags = Reader(written[1]).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in tags:
        target = attributes.get("href") or ""
        if target.startswith("#"):
            assert target[1:] in ids, (tag, target)
        for name in ("aria-labelledby", "aria-controls", "for"):
            for wanted in (attributes.get(name) or "").split():
                assert wanted in ids, (tag, name, wanted)


def test_nothing_is_fetched_from_anywhere(written: tuple[Diagnosis, str]) -> None:
    for tag, attributes in Reader(written[1]).tags:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base", "form", "audio", "video"}
        for name, value in attributes.items():
            assert name != "src", tag
            assert name != "style", "inline styles are refused by the policy"
            assert not name.startswith("on"), (tag, name)
            if name in {"href", "action", "data", "srcset"}:
                assert (value or "").startswith("#"), (tag, value)
    assert "url(" not in written[1].split("</style>")[0].split("<style>")[1]
    assert "@import" not in written[1]


def test_the_policy_allows_this_script_and_this_style_only(written: tuple[Diagnosis, str]) -> None:
    reader = Reader(written[1])
    policy = next(
        attributes["content"] for tag, attributes in reader.tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert f"style-src '{digest(reader.raw['style'][0])}'" in policy
    scripts = [attributes for tag, attributes in reader.tags if tag == "script"]
    assert [attributes.get("type") for attributes in scripts] == ["application/json", None]
    assert f"script-src '{digest(reader.raw['script'][1])}'" in policy


def test_the_embedded_data_are_json(written: tuple[Diagnosis, str]) -> None:
    text = Reader(written[1]).raw["script"][0]
    assert not set(text) & set("<>&\u2028\u2029")
    data = json.loads(text)
    assert len(data["readings"]) == len(written[0].readings)


def test_the_page_is_small(written: tuple[Diagnosis, str]) -> None:
    assert len(written[1].encode()) <= LARGEST


def test_the_page_says_all_that_the_finding_says() -> None:
    text = html(diagnoses.faulty())
    for finding in diagnoses.findings():
        assert finding.code in text
        assert finding.block_or_site in text
        for item in (*finding.evidence, *finding.counter_evidence):
            assert item.statement[:40].replace("'", "&#39;") in text
        for words in finding.alternatives:
            assert words[:30] in text
    for expected in ("masked_fill(mask == 2", "What would prove it wrong", "right on planted", "reviews/model.py",
                     "no double backward", "No optimiser was given", "attnscope check reviews/model.py:make"):
        assert expected in text, expected


def test_a_healthy_page_is_as_informative() -> None:
    text = html(diagnoses.healthy())
    for expected in ("Nothing found", "6 attentions with 72 heads", "5 rules asked", "nothing points to a fault",
                     "padding attended"):
        assert expected in text, expected
    assert 'class="verdict calm"' in text
    assert "<article" not in text


def test_no_attention_is_an_answer() -> None:
    text = html(diagnoses.without_attention())
    assert "No attention was found in this model." in text
    assert "no softmax weighs values here" in text


def test_an_interrupted_diagnosis_says_so() -> None:
    assert "Interrupted" in html(replace(diagnoses.healthy(), interrupted=True))


def test_hostile_names_stay_text() -> None:
    text = html(diagnoses.hostile())
    reader = Reader(text)
    assert len([tag for tag, _ in reader.tags if tag == "script"]) == 2
    assert not [tag for tag, _ in reader.tags if tag == "img"]
    assert "\u202e" not in text
    assert "\u200f" not in text
    assert "\x1b" not in text
    assert "{{7*7}}" in text  # shown, not computed
    assert "49" not in re.findall(r"probe(\d+)", text)


def test_a_name_of_a_million_letters_does_not_fill_the_page() -> None:
    finding = replace(diagnoses.findings()[0], summary="x" * 1_000_000, block_or_site="y" * 1_000_000)
    text = html(replace(diagnoses.faulty(), findings=(finding,), name="z" * 1_000_000))
    assert len(text) < 1_000_000


def test_lone_surrogates_are_written(tmp_path: Path) -> None:
    finding = replace(diagnoses.findings()[0], summary="\ud800 broken")
    written = report(replace(diagnoses.faulty(), findings=(finding,)), tmp_path / "a.html")
    assert "\\ud800 broken" in written.read_text(encoding="utf-8")


def test_a_very_large_diagnosis_keeps_the_budget() -> None:
    base = diagnoses.faulty(64, 64)
    random = np.random.default_rng(0)
    wide = {
        f"pattern_{number}": Reading(f"pattern_{number}", random.random((64, 64)), ("layer", "head"), "1")
        for number in range(20)
    }
    huge = {"scores": Reading("scores", random.random((64, 64, 64)), ("layer", "query", "key"), "1"),
            "every_parameter": Reading("every_parameter", random.random((900, 900)), ("block", "block_b"), "1")}
    many = tuple(
        replace(diagnoses.findings()[number % 3], block_or_site=f"L{number % 64}H{number % 60}.V")
        for number in range(3000)
    )
    diagnosis = replace(base, findings=many, readings={**base.readings, **wide, **huge})
    text = html(diagnosis)
    assert len(text.encode()) <= LARGEST
    assert "And 29" in text  # the rest is listed, not lost


def test_report_writes_whole_files_and_reads_saved_ones(tmp_path: Path) -> None:
    saved = diagnoses.faulty().save(tmp_path / "diagnosis.json")
    first = report(diagnoses.faulty(), tmp_path / "a.html")
    second = report(saved, tmp_path / "b.html")
    third = report(str(saved), str(tmp_path / "c.html"))
    assert first.read_text() == second.read_text() == third.read_text()
    assert not list(tmp_path.glob("*.part"))
    with pytest.raises(RecordError, match="cannot read"):
        report(tmp_path / "missing.json", tmp_path / "d.html")
    assert not (tmp_path / "d.html").exists()


def test_the_same_diagnosis_gives_the_same_page() -> None:
    assert html(diagnoses.faulty()) == html(diagnoses.faulty())


def test_expectations_in_every_form() -> None:
    rows = expectations({
        "causal": {"value": True, "inferred": True, "because": "the mask forbids the future"},
        "padding_token": 0, "order_matters": True, "inferred": ["order_matters"],
    })
    assert rows == [
        ("causal", "yes", "inferred", "the mask forbids the future"), ("padding_token", "0", "stated", ""),
        ("order_matters", "yes", "inferred", ""),
    ]


def test_a_warning_leads_with_its_own_mood() -> None:
    warned = tuple(item for item in diagnoses.findings() if item.severity is not Severity.ERROR)
    text = html(replace(diagnoses.faulty(), findings=warned))
    assert 'class="verdict warning"' in text


def test_only_notes_stay_calm() -> None:
    notes = tuple(item for item in diagnoses.findings() if item.severity is Severity.NOTE)
    text = html(replace(diagnoses.faulty(), findings=notes))
    assert 'class="verdict calm"' in text
    assert "1 note below" in text


def test_pages_open_without_torch() -> None:
    script = (
        "import sys; sys.path.insert(0, 'tests'); import diagnoses\n"
        "from attnscope.pages.page import html; html(diagnoses.faulty())\n"
        "from attnscope.pages.notebook import as_html; as_html(diagnoses.faulty())\n"
        "sys.exit('torch' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", script], cwd=root, check=False).returncode == 0


def test_assets_are_in_the_package() -> None:
    for name in ("page.html", "page.css", "page.js"):
        assert pages.asset(name)
        assert "\r" not in pages.asset(name)
    assert "</script" not in pages.asset("page.js")
    assert "</style" not in pages.asset("page.css")
