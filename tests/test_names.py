"""File, class and vocabulary agree; the files keep to the size of their idea."""

import ast
from pathlib import Path

import pytest

from attnscope import catalogue

SOURCE = Path(__file__).parents[1] / "src" / "attnscope"
FILES = sorted(SOURCE.rglob("*.py"))
FAMILIES = ("lenses", "run_lenses", "faults", "rules", "studies")
MEMBERS = [(family, name) for family in FAMILIES for name in catalogue.names(family)]


@pytest.mark.parametrize(("family", "name"), MEMBERS, ids=lambda part: str(part))
def test_a_member_is_the_class_its_file_promises(family: str, name: str) -> None:
    member = catalogue.load(family, name)
    assert member.__name__ == catalogue.class_name(name)
    assert member.__dataclass_params__.frozen
    assert (member.__doc__ or "").strip()
    contracts = [base for base in member.__mro__[1:] if base.__module__.startswith("attnscope")]
    assert all(not base.__module__.endswith(f".{other}") for base in contracts for _, other in MEMBERS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_file_has_a_subject_and_a_size(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert path.stem not in {"utils", "helpers", "common", "misc"}
    assert len(text.splitlines()) <= 600
    tree = ast.parse(text)
    assert not text.strip() or ast.get_docstring(tree), "the first line says what the file is for"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 100, f"{node.name} is over a hundred lines"


def test_rule_codes_are_unique_and_in_their_groups() -> None:
    codes = {name: catalogue.load("rules", name).code for name in catalogue.names("rules")}
    assert len(set(codes.values())) == len(codes)
    groups = {"MSK": 1, "SFT": 2, "PRJ": 3, "POS": 4, "GRD": 5, "CRV": 6, "DAT": 7, "CAP": 9}
    for name, code in codes.items():
        assert groups[code[:3]] == int(code[3]), name
        assert code[3:].isdigit()
        assert len(code) == 6
