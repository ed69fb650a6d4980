"""The docs are true: links lead somewhere, commands exist, and numbers are those of the stored results."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import typer.main

from attnscope.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "examples/README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
COMMANDS = typer.main.get_command(app)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target and not target.startswith("#"):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_commands_that_the_pages_name_exist() -> None:
    names = set(COMMANDS.commands)  # type: ignore[attr-defined]
    later = {"run", "watch", "serve", "diff", "bench", "advise"}  # of the design, not built yet
    for page in PAGES:
        allowed = names | (later if page.name == "design.md" else set())
        named = set(re.findall(r"(?:^|`|bin/)attnscope ([a-z]+)\b", page.read_text(encoding="utf-8"), re.MULTILINE))
        assert named <= allowed, (page.name, named - allowed)


def test_the_tables_are_those_of_the_stored_results() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from planting.pages import controls_page, planted_page
    finally:
        sys.path.pop(0)
    results = ROOT / "benchmarks"

    def read(name: str) -> dict[str, object]:
        data: dict[str, object] = json.loads((results / name).read_text(encoding="utf-8"))
        return data

    seeds = [read(path.name) for path in sorted(results.glob("planted_faults_seed_*.json"))]
    planted = planted_page(read("planted_faults.json"), read("planted_held_out.json"), seeds=seeds)
    assert (ROOT / "docs/planted_faults.md").read_text(encoding="utf-8") == planted
    efforts = [f"negative_controls_{effort}.json" for effort in ("light", "standard", "deep")]
    controls = controls_page([read(name) for name in efforts if (results / name).exists()])
    assert (ROOT / "docs/negative_controls.md").read_text(encoding="utf-8") == controls


def test_every_failure_is_explained() -> None:
    for page in ("planted_faults.md", "negative_controls.md"):
        assert "not explained yet" not in (ROOT / "docs" / page).read_text(encoding="utf-8")
