"""How a source file is named in output that other tools read: relative to the checkout when inside it."""

from __future__ import annotations

from pathlib import Path, PurePath
from urllib.parse import quote


def inside(file: str, root: str | Path | None = None) -> str:
    """The file relative to `root` (the working directory when None), with `/`; unchanged when outside."""
    base = Path.cwd() if root is None else Path(root)
    path = PurePath(file)
    if path.is_absolute():
        for candidate in (base, base.resolve()):
            if path.is_relative_to(candidate):
                return path.relative_to(candidate).as_posix()
    return path.as_posix()


def uri(file: str, root: str | Path | None = None) -> str:
    """The same as a URI reference: relative inside the checkout, `file://` outside."""
    name = inside(file, root)
    quoted = quote(name, safe="/", errors="replace")
    return f"file://{quoted}" if PurePath(name).is_absolute() else quoted
