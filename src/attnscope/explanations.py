"""What every code means, read from the rules' docstrings without importing anything heavy.

The source is parsed, not run, so `attnscope explain` and `attnscope rules` open at once. A rule's docstring
is its page; `python -m attnscope.explanations --write docs/rules` writes one file per code.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import inspect
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from attnscope.errors import AttnscopeError, CatalogueError

_FOLDERS = {
    "rules": "diagnosis/rules",
    "lenses": "lenses",
    "faults": "faults",
    "remedies": "remedies",
    "models": "models",
    "tasks": "tasks",
    "studies": "studies",
}
SECTIONS = (
    "What it means",
    "Why it matters",
    "Evidence required",
    "When it is a false alarm",
    "How to confirm",
    "What to try",
)
GROUPS = {
    "MSK": "masks",
    "SFT": "scores and softmax",
    "PRJ": "projections and heads",
    "POS": "positions",
    "GRD": "gradients and updates",
    "CRV": "curvature and stability",
    "DAT": "data and loss",
    "CAP": "quality of the capture",
}
_SECTION = re.compile(r"^\*\*(.+?)\*\*\s*", re.MULTILINE)


@dataclass(frozen=True)
class Page:
    """The page of one rule.

    Attributes:
        code, kind: such as `MSK101`, `future_leak` (the file's name).
        severity: of its findings, unless a finding says otherwise.
        group: what the code's letters stand for.
        summary: the first line: what is wrong.
        sections: the fixed sections, in order.
        needs: the lenses it reads.
        alternatives: causes that look alike.
        remedies: what to try, cheapest first.
    """

    code: str
    kind: str
    severity: str
    group: str
    summary: str
    sections: tuple[tuple[str, str], ...]
    needs: tuple[str, ...] = ()
    alternatives: tuple[str, ...] = ()
    remedies: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self), "sections": dict(self.sections)}

    def markdown(self) -> str:
        """The whole page."""
        lines = [f"# {self.code} {self.kind}", "", self.summary, "", f"*{self.severity}, {self.group}*", ""]
        for title, text in self.sections:
            lines += [f"## {title}", "", text, ""]
        if self.alternatives:
            lines += ["## What looks alike", "", *(f"- {item}" for item in self.alternatives), ""]
        if self.remedies:
            lines += ["## Remedies, cheapest first", "", *_numbered(self.remedies), ""]
        if self.needs:
            lines += ["## Read from", "", ", ".join(f"`{name}`" for name in self.needs), ""]
        return "\n".join(lines)


def explain(name: str) -> str:
    """What a code or a name means, as Markdown.

    Args:
        name: a code (`MSK101`), a rule's kind (`future_leak`), or the name of a lens, fault or remedy.

    Returns:
        The rule's page, or the member's docstring.

    Raises:
        CatalogueError: nothing has that name; the nearest ones are given.
    """
    wanted = name.strip()
    for page in all_rules():
        if wanted.upper() == page.code or wanted.lower() == page.kind:
            return page.markdown()
    for family in _FOLDERS:
        path = _folder(family) / f"{wanted.lower()}.py"
        if re.fullmatch(r"[a-z]\w*", wanted.lower()) and path.is_file():
            docstring, _ = _member(path)
            return f"# {wanted.lower()} ({family})\n\n{docstring}\n"
    known = [word for page in all_rules() for word in (page.code, page.kind)]
    known += [path.stem for family in _FOLDERS for path in _files(family)]
    near = list(dict.fromkeys(difflib.get_close_matches(wanted, known, n=3)))
    hint = f"did you mean {', '.join(near)}?" if near else "`attnscope rules` lists the codes"
    raise CatalogueError(f"nothing is called {name!r}; {hint}")


@cache
def all_rules() -> tuple[Page, ...]:
    """The page of every rule of this package, by code."""
    return tuple(sorted((_page(path) for path in _files("rules")), key=lambda page: page.code))


def write(folder: str | Path) -> list[Path]:
    """Writes one page per code and an index, and removes pages of codes that are gone.

    Args:
        folder: such as `docs/rules`; made when missing.

    Returns:
        The files, sorted.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    pages = {f"{page.code}.md": page.markdown() for page in all_rules()}
    pages["README.md"] = _index()
    for old in target.glob("*.md"):
        if old.name not in pages:
            old.unlink()
    for name, text in pages.items():
        (target / name).write_text(text, encoding="utf-8")
    return sorted(target / name for name in pages)


def _index() -> str:
    lines = ["# The codes", "", "Made by `python -m attnscope.explanations --write docs/rules`.", ""]
    for letters, group in GROUPS.items():
        members = [page for page in all_rules() if page.code.startswith(letters)]
        if not members:
            continue
        lines += [
            f"## {letters}: {group}",
            "",
            "| code | kind | severity | what is wrong |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| [{page.code}]({page.code}.md) | `{page.kind}` | {page.severity} | {page.summary} |"
            for page in members
        ]
        lines.append("")
    return "\n".join(lines)


def _numbered(items: Sequence[str]) -> list[str]:
    return [f"{number}. {item}" for number, item in enumerate(items, 1)]


def _folder(family: str) -> Path:
    return Path(__file__).parent / _FOLDERS[family]


def _files(family: str) -> list[Path]:
    return sorted(path for path in _folder(family).glob("*.py") if not path.stem.startswith("_"))


def _member(path: Path) -> tuple[str, ast.ClassDef]:
    """The docstring and the syntax tree of the class that the file's name promises."""
    promised = "".join(part.capitalize() for part in path.stem.split("_"))
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == promised:
            return inspect.cleandoc(ast.get_docstring(node) or ""), node
    raise CatalogueError(f"{path.name} must hold a class {promised}")


def _page(path: Path) -> Page:
    docstring, tree = _member(path)
    facts = _class_facts(tree)
    summary, _, rest = docstring.partition("\n")
    code = str(facts.get("code", ""))
    return Page(
        code=code,
        kind=path.stem,
        severity=str(facts.get("severity", "error")),
        group=GROUPS.get(code[:3], ""),
        summary=summary.strip(),
        sections=_sections(rest),
        needs=tuple(facts.get("needs", ())),
        alternatives=tuple(facts.get("alternatives", ())),
        remedies=tuple(facts.get("remedies", ())),
    )


def _sections(text: str) -> tuple[tuple[str, str], ...]:
    parts = _SECTION.split(text)
    return tuple((parts[i], parts[i + 1].strip()) for i in range(1, len(parts) - 1, 2))


def _class_facts(tree: ast.ClassDef) -> dict[str, Any]:
    """The constants that the class assigns; `Severity.NOTE` becomes `note`."""
    facts: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            if isinstance(node.value, ast.Attribute):
                facts[node.target.id] = node.value.attr.lower()
                continue
            try:
                facts[node.target.id] = ast.literal_eval(node.value)
            except ValueError:
                continue
    return facts


def _main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Writes the page of every code.")
    parser.add_argument("--write", metavar="FOLDER", required=True, help="such as docs/rules")
    try:
        files = write(parser.parse_args(arguments).write)
    except (AttnscopeError, OSError) as error:
        parser.exit(2, f"error: {error}\n")
    print(f"{len(files)} files written")
    return 0


if __name__ == "__main__":
    raise SystemExit(_main())
