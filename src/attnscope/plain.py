"""Plain data: JSON types without NaN and infinity (they become strings), and text that only prints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any
from unicodedata import category


def plain(value: Any) -> Any:
    """The same data in JSON types; a float that is not finite becomes `"nan"`, `"inf"` or `"-inf"`."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if hasattr(value, "tolist") and not isinstance(value, str | bytes):
        return plain(value.tolist())  # numpy arrays and scalars
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value


def floats(value: Any) -> Any:
    """The numbers of nested lists as floats again: the inverse of `plain` on arrays."""
    if isinstance(value, list):
        return [floats(item) for item in value]
    return float(value)


def maybe_float(value: Any) -> float | None:
    """A float, or None: the inverse of `plain` on one number that may be missing."""
    return None if value is None else float(value)


def printable(text: str) -> str:
    """Text in which terminal escapes, line breaks and direction marks are written out and do nothing."""
    return "".join(map(_written_out, text))


def _written_out(char: str) -> str:
    if char.isprintable() or category(char) == "Zs":
        return char
    return f"\\u{ord(char):04x}" if ord(char) > 0xFF else f"\\x{ord(char):02x}"
