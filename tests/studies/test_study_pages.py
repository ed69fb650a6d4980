"""A study's Markdown page and its figures: every claim is there, failing ones as failing, figures are whole SVGs."""

from pathlib import Path
from xml.etree import ElementTree

from attnscope.pages.study_page import study_figures
from attnscope.studies import Curve, StudyResult, at_most
from attnscope.studies._claims_table import to_markdown

RESULT = StudyResult(
    "made_up",
    "paper",
    1.0,
    (at_most("holds", "lemma 1", 2.0, 1.0), at_most("a | b", "lemma 2", 2.0, 3.0, "seeds 0 to 4")),
    (
        Curve("norm ratios", "nuclear", [1, 10, 1000], [1.5, 1.2, 1.01]),
        Curve("norm ratios", "law", [1, 1000], [1.5, 1.0], True),
    ),
    {"norm ratios": ("margin", "ratio"), "without curves": ("x", "y")},
)


def test_figures_are_whole_and_named_for_study_and_figure(tmp_path: Path) -> None:
    curves = [vars(curve) for curve in RESULT.curves]
    written = study_figures("made_up", RESULT.figures, curves, tmp_path / "images")
    assert {name: file.name for name, file in written.items()} == {"norm ratios": "made_up-norm-ratios.svg"}
    root = ElementTree.parse(written["norm ratios"]).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    drawn = [item for item in root.iter("{http://www.w3.org/2000/svg}path") if "line" in item.get("class", "")]
    assert len(drawn) >= 2


def test_the_page_shows_failing_claims_as_failing() -> None:
    page = to_markdown(RESULT, "A title", "Someone 2020", about="## The model", command="attnscope study x",
                       figures={"norm ratios": "images/f.svg"})  # fmt: skip
    assert "1 of 2 claims hold" in page
    assert r"| **fails** | a \| b | lemma 2 | <= 2 | bound | 3 | seeds 0 to 4 |" in page
    assert "`attnscope study x`" in page
    assert "## The model" in page
    assert "![norm ratios](images/f.svg)" in page
