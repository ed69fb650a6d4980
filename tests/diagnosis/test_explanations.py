"""Every rule has its page, in the fixed form; the docs hold what the rules say; nothing heavy is imported."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from attnscope import catalogue
from attnscope.errors import CatalogueError
from attnscope.explanations import GROUPS, SECTIONS, Page, all_rules, explain, write

DOCS = Path(__file__).parents[2] / "docs" / "rules"


@pytest.mark.parametrize("page", all_rules(), ids=lambda page: page.kind)
def test_every_rule_has_a_page_in_the_fixed_form(page: Page) -> None:
    assert re.fullmatch(r"[A-Z]{3}\d{3}", page.code)
    assert page.code[:3] in GROUPS
    assert tuple(title for title, _ in page.sections) == SECTIONS
    assert all(text for _, text in page.sections)
    assert page.summary.endswith(".")
    assert page.remedies
    assert page.alternatives


@pytest.mark.parametrize("page", all_rules(), ids=lambda page: page.kind)
def test_the_page_says_what_the_class_does(page: Page) -> None:
    rule = catalogue.load("rules", page.kind)()
    assert (rule.kind, rule.code, rule.severity.value) == (page.kind, page.code, page.severity)
    assert (rule.needs, rule.remedies, rule.alternatives) == (page.needs, page.remedies, page.alternatives)
    assert set(rule.needs) <= set(catalogue.names("lenses"))


def test_codes_are_unique_and_every_rule_is_listed() -> None:
    codes = [page.code for page in all_rules()]
    assert len(codes) == len(set(codes))
    assert {page.kind for page in all_rules()} == set(catalogue.names("rules"))


def test_the_docs_are_up_to_date(tmp_path: Path) -> None:
    made = {path.name: path.read_text() for path in write(tmp_path)}
    kept = {path.name: path.read_text() for path in DOCS.glob("*.md")}
    assert kept == made, "run: python -m attnscope.explanations --write docs/rules"


def test_pages_of_codes_that_are_gone_are_removed(tmp_path: Path) -> None:
    (tmp_path / "OLD999.md").write_text("gone")
    write(tmp_path)
    assert not (tmp_path / "OLD999.md").exists()


def test_explain_takes_codes_kinds_and_other_members() -> None:
    assert explain("msk101") == explain("future_leak") == explain(" MSK101 ")
    assert "**Measures**" in explain("attention_entropy")
    for name in ("", "MSK", "../cli", "__init__", "no_such_thing"):
        with pytest.raises(CatalogueError):
            explain(name)
    with pytest.raises(CatalogueError, match="future_leak"):
        explain("future_leek")


def test_explaining_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; from attnscope.explanations import all_rules, explain; all_rules(); explain('MSK101');"
        "explain('attention_entropy'); print([name for name in ('torch', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
