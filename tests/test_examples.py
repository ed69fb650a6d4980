"""The examples run as their page says, and find what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from attnscope.examine import diagnose
from attnscope.factory import load_case

EXAMPLES = Path(__file__).parents[1] / "examples"

FOUND = {
    "leaky_gpt.py:make_case": ["MSK101"],
    "leaky_gpt.py:make_fixed_case": [],
    "forgotten_mask.py:make_case": ["MSK102"],
    "dead_key.py:make_case": ["GRD503"],
}


@pytest.mark.parametrize("target", FOUND)
def test_what_is_found(target: str) -> None:
    if target.startswith("forgotten_mask"):
        pytest.importorskip("transformers")
    diagnosis = diagnose(load_case(str(EXAMPLES / target)))
    assert [finding.code for finding in diagnosis.at_least("warning")] == FOUND[target]


@pytest.mark.parametrize("name", ["dead_key.py", "own_lens.py"])
def test_the_scripts_run(name: str, tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, EXAMPLES / name], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = {"dead_key.py": "GRD503", "own_lens.py": "the contract holds"}
    assert said[name] in done.stdout


def test_the_page_names_every_example() -> None:
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z_]+\.(?:py|yml))`", page))
    assert named == {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".yml")}
