"""What each lens measures, read from its docstring without importing it (lenses import torch, pages do not)."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_SECTION = re.compile(r"^\*\*(.+?)\*\*\s*", re.MULTILINE)
CURVATURE = "Curvature"
TOPICS = (
    ("optimizer", "Gradients and updates"), ("hessian", CURVATURE), ("gradient", "Gradients and updates"),
    ("loss", "Loss and function"), ("pattern", "Attention patterns and scores"), ("weights", "Weights"),
)
OTHER = "Other readings"
TOPIC_ORDER = (
    "Attention patterns and scores", "Loss and function", "Gradients and updates", "Curvature", "Weights",
)


@dataclass(frozen=True)
class LensNote:
    """A lens in words.

    Attributes:
        name, title: its file name, and the same for people.
        line: the docstring's first line.
        measures, reading_it, reference: sections of the docstring; empty when it has none.
        topic: under which heading its figure stands.
    """

    name: str
    title: str
    line: str = ""
    measures: str = ""
    reading_it: str = ""
    reference: str = ""
    topic: str = OTHER


def lens_note(name: str) -> LensNote:
    """The note of a lens; only its title when it is not one of this package's."""
    title = name.replace("_", " ")
    path = _folder() / f"{name}.py"
    if not re.fullmatch(r"[a-z]\w*", name) or not path.is_file():
        return LensNote(name, title)
    return _read(path)


def _folder() -> Path:
    """The folder of the lenses; finding a sub-package does not run it."""
    spec = find_spec("attnscope.lenses")
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]) if places else Path()


@cache
def _read(path: Path) -> LensNote:
    name = path.stem
    promised = "".join(part.capitalize() for part in name.split("_"))
    title = name.replace("_", " ")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == promised:
            text = inspect.cleandoc(ast.get_docstring(node) or "")
            line, _, rest = text.partition("\n")
            parts = _SECTION.split(rest)
            sections = {parts[i]: parts[i + 1].strip() for i in range(1, len(parts) - 1, 2)}
            return LensNote(
                name, title, line.strip(), sections.get("Measures", ""), sections.get("Reading it", ""),
                sections.get("Reference", ""), _topic(node),
            )
    return LensNote(name, title)


def _topic(tree: ast.ClassDef) -> str:
    """From what the lens needs."""
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "needs":
            try:
                needs = ast.literal_eval(node.value) if node.value is not None else ()
            except ValueError:
                return OTHER
            return next((topic for need, topic in TOPICS if need in needs), OTHER)
    return OTHER
