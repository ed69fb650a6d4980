"""How a source file is named in output that other tools read: relative to the checkout when inside it."""

from __future__ import annotations

from pathlib import Path, PurePath
from urllib.parse import quote

from attnscope.anatomy.blocks import Source


def inside(file: str, root: str | Path | None = None) -> str:
    """The file relative to `root` (the working directory when None), with `/`; unchanged when outside."""
    base = Path.cwd() if root is None else Path(root)
    path = PurePath(file)
    if path.is_absolute():
        for candidate in (base, base.resolve()):
            if path.is_relative_to(candidate):
                return path.relative_to(candidate).as_posix()
    return path.as_posix()


def readable(file: str) -> str:
    """For a person: relative to the working directory, or to the folder of installed packages."""
    name = inside(file)
    for folder in ("/site-packages/", "/dist-packages/"):
        if folder in name:
            return name.rpartition(folder)[2]
    return name


def where(source: Source) -> str:
    """`model.py:63`, for a person."""
    return f"{readable(source.file)}:{source.line}"


def uri(file: str, root: str | Path | None = None) -> str:
    """The same as a URI reference: relative inside the checkout, `file://` outside."""
    name = inside(file, root)
    quoted = quote(name, safe="/", errors="replace")
    return f"file://{quoted}" if PurePath(name).is_absolute() else quoted
