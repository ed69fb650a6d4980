"""Imports a copy of a model's source file in which some lines are changed; says which lines those are."""

from __future__ import annotations

import atexit
import functools
import importlib
import importlib.util
import itertools
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from attnscope.anatomy.blocks import Source

_numbers = itertools.count()


@dataclass(frozen=True)
class Edit:
    """One change of a file.

    Attributes:
        old: the line as it stands, without its indentation.
        new: what stands there instead, in one or more lines; empty when the line is gone.
        nth: which of several equal lines, from 0; None when there must be only one.
        inside: a line (without indentation) that must come before it, to tell equal lines apart.
    """

    old: str
    new: str
    nth: int | None = None
    inside: str = ""


def edited(module_name: str, *edits: Edit) -> tuple[ModuleType, tuple[Source, ...]]:
    """A copy of an installed module's file with the edits, imported under a name of its own.

    Args:
        module_name: such as `attnscope.models.gpt`; relative imports in it keep working.
        edits: what to change; with none the copy is exact.

    Returns:
        The module, and the lines that changed. Where a line was taken away, those are its two neighbours.

    Raises:
        ValueError: a line to change is not there, or is there more than once.
    """
    origin = importlib.util.find_spec(module_name)
    if origin is None or origin.origin is None:
        raise ValueError(f"no module {module_name}")
    lines = Path(origin.origin).read_text(encoding="utf-8").split("\n")
    marked = [(line, False) for line in lines]
    for edit in edits:
        marked = _apply(marked, edit, module_name)
    path = _folder() / f"planted_{next(_numbers)}" / Path(origin.origin).name
    path.parent.mkdir()
    path.write_text("\n".join(line for line, _ in marked), encoding="utf-8")
    name = f"{module_name}_{path.parent.name}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    truth = tuple(
        Source(file=str(path), line=number, text=line.strip())
        for number, (line, changed) in enumerate(marked, 1)
        if changed
    )
    return module, truth


@functools.cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="planted-faults-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _apply(marked: list[tuple[str, bool]], edit: Edit, module_name: str) -> list[tuple[str, bool]]:
    start = 0
    if edit.inside:
        start = next((n for n, (line, _) in enumerate(marked) if line.strip() == edit.inside), len(marked))
    found = [n for n, (line, _) in enumerate(marked) if line.strip() == edit.old and n >= start]
    if not found or (len(found) > 1 and edit.nth is None and not edit.inside):
        raise ValueError(f"{module_name} has {len(found)} lines {edit.old!r}; expected one")
    place = found[edit.nth or 0]
    line = marked[place][0]
    indent = line[: len(line) - len(line.lstrip())]
    fresh = [(indent + text, True) for text in edit.new.split("\n")] if edit.new else []
    before, after = marked[:place], marked[place + 1 :]
    if not fresh:
        before[-1] = (before[-1][0], True)
        after[0] = (after[0][0], True)
    return before + fresh + after
