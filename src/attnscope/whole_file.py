"""Writes a file whole or not at all: a kill in the middle leaves the old one."""

from __future__ import annotations

from pathlib import Path


def write_whole(path: str | Path, text: str) -> Path:
    """Writes `text` beside the target and moves it into place.

    Args:
        path: the target; an existing file is replaced.
        text: characters that UTF-8 cannot hold (lone surrogates) are written as escapes.

    Returns:
        the target.
    """
    target = Path(path)
    part = target.with_name(target.name + ".part")
    part.write_text(text, encoding="utf-8", errors="backslashreplace")
    part.replace(target)
    return target
