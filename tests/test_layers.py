"""Arrows point down: the import table of docs/design.md, read against the source."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "attnscope"

EVERYTHING = {"*"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "plain": set(),
    "whole_file": set(),
    "undisturbed": {"errors"},
    "calling": set(),
    "catalogue": {"errors"},
    "readings": {"errors", "plain"},
    "anatomy.blocks": {"errors", "plain"},
    "findings": {"errors", "plain", "whole_file", "readings", "anatomy.blocks"},
    "record": {"errors", "readings", "findings", "anatomy.blocks"},
    "anatomy": {"errors", "anatomy.blocks", "undisturbed", "calling"},
    "curvature": {"errors", "anatomy.blocks", "undisturbed"},
    "models": {"errors", "anatomy.blocks"},
    "margin": {"errors"},
    "workers": {"errors"},
    "tasks": {"errors"},
    "start": {"errors"},
    "case": {"errors", "calling", "models", "tasks", "start"},
    "factory": {"errors", "case"},
    "environment": set(),
    "probe": {"errors", "anatomy", "anatomy.blocks", "case", "undisturbed", "models", "tasks"},
    "lenses": {
        "errors",
        "readings",
        "anatomy",
        "anatomy.blocks",
        "probe",
        "case",
        "curvature",
        "undisturbed",
        "record",
    },
    "faults": {"errors", "findings", "anatomy", "anatomy.blocks", "case"},
    "remedies": {"errors", "anatomy", "anatomy.blocks", "probe"},
    "training": {
        "errors",
        "anatomy",
        "anatomy.blocks",
        "case",
        "catalogue",
        "lenses",
        "probe",
        "readings",
        "record",
        "remedies",
        "start",
    },
    "watching": {"errors", "case", "lenses", "record", "training"},
    "diagnosis": {"errors", "readings", "findings", "anatomy.blocks", "record", "catalogue"},
    "intentions": {"errors", "anatomy", "anatomy.blocks", "case", "probe", "readings"},
    "explanations": {"errors", "catalogue"},
    "examine": {
        "errors",
        "catalogue",
        "readings",
        "findings",
        "anatomy",
        "anatomy.blocks",
        "case",
        "probe",
        "lenses",
        "diagnosis",
        "undisturbed",
        "curvature",
        "intentions",
        "start",
    },
    "formats": {"errors", "plain", "readings", "findings", "anatomy.blocks", "record", "explanations"},
    "pages": {
        "errors",
        "plain",
        "whole_file",
        "readings",
        "findings",
        "anatomy.blocks",
        "record",
        "explanations",
        "formats",
    },
    "portrait": {
        "errors",
        "factory",
        "plain",
        "whole_file",
        "workers",
        "calling",
        "readings",
        "anatomy",
        "anatomy.blocks",
        "case",
        "probe",
        "curvature",
        "undisturbed",
    },
    "studies": EVERYTHING,
    "bench": EVERYTHING,
    "__main__": EVERYTHING,
    "cli": EVERYTHING,
    "cli_bench": EVERYTHING,
    "cli_curvature": EVERYTHING,
    "cli_terminal": set(),
    "testing": EVERYTHING,
    "demo": EVERYTHING,
}
LAZY = {"cli", "cli_bench", "cli_curvature", "demo", "__init__"}


def unit_of(module: str) -> str:
    """The unit of the table that `attnscope.<module>` belongs to."""
    if module == "anatomy.blocks":
        return module
    return module.split(".")[0]


def modules() -> list[Path]:
    return sorted(path for path in SOURCE.rglob("*.py"))


def dotted(path: Path) -> str:
    relative = path.relative_to(SOURCE).with_suffix("")
    parts = [part for part in relative.parts if part != "__init__"]
    return ".".join(parts) or "__init__"


def own_imports(tree: ast.AST) -> list[tuple[str, ast.stmt]]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("attnscope"):
            base = (node.module or "").removeprefix("attnscope").strip(".")
            for alias in node.names:
                whole = f"{base}.{alias.name}".strip(".")
                is_module = (SOURCE / (whole.replace(".", "/") + ".py")).exists() or (
                    SOURCE / whole.replace(".", "/")
                ).is_dir()
                found.append((whole if is_module else base, node))
        elif isinstance(node, ast.Import):
            found += [
                (alias.name.removeprefix("attnscope").strip("."), node)
                for alias in node.names
                if alias.name.startswith("attnscope")
            ]
    return [(name, node) for name, node in found if name]


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_imports_point_down(path: Path) -> None:
    name = dotted(path)
    if name == "__init__":
        pytest.skip("the root only names lazily loaded verbs")
    unit = unit_of(name)
    assert unit in MAY_IMPORT, f"{unit} is not in the table of arrows; add it to docs/design.md and here"
    allowed = MAY_IMPORT[unit]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for target, _ in own_imports(tree):
        other = unit_of(target)
        if other != unit and allowed is not EVERYTHING:
            assert other in allowed, f"{name} imports {target}; {unit} may import {sorted(allowed)}"


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_no_own_import_inside_a_function(path: Path) -> None:
    if unit_of(dotted(path)) in LAZY:
        pytest.skip("imports inside each command")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    lazy = [target for target, node in own_imports(tree) if id(node) in inside]
    assert not lazy, f"{dotted(path)} imports {lazy} inside a function"


FAMILIES = [
    "lenses", "lenses/over_runs", "faults", "diagnosis/rules", "remedies", "studies",
    "bench/subjects", "bench/controls", "bench/rankers",
]


@pytest.mark.parametrize("family", FAMILIES)
def test_members_never_import_siblings(family: str) -> None:
    package = family.replace("/", ".")
    for path in sorted((SOURCE / family).glob("*.py")):
        if path.stem.startswith("_"):
            continue
        for target, _ in own_imports(ast.parse(path.read_text(encoding="utf-8"))):
            sibling = target.removeprefix(package + ".")
            if target.startswith(package + ".") and not sibling.startswith("_"):
                assert sibling == path.stem, f"{path.stem} imports its sibling {sibling}"
