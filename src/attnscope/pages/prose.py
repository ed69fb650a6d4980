"""Text for the page: user text is inert, docstrings keep their `code` and paragraphs."""

from __future__ import annotations

import re
from typing import Any

from markupsafe import Markup, escape

from attnscope.plain import printable

LONGEST = 400
_CODE = re.compile(r"`([^`\n]+)`")


def shown(value: Any) -> Any:
    """What an expression of the template becomes: text that only prints, and of bounded length."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return clipped(printable(value))


def clipped(text: str, most: int = LONGEST) -> str:
    """The text, or its beginning and end."""
    return text if len(text) <= most else f"{text[: most - 60]} … {text[-50:]}"


def name(value: object) -> Markup:
    """A name from the user's code or data: isolated, so that its direction cannot leak into the sentence."""
    return Markup("<bdi>") + escape(clipped(printable(str(value)))) + Markup("</bdi>")


def path(value: str) -> Markup:
    """A file's path, which may break after its slashes."""
    parts = [escape(part) for part in clipped(printable(value)).split("/")]
    return Markup('<bdi class="path">') + Markup("/<wbr>").join(parts) + Markup("</bdi>")


def sentence(text: str) -> Markup:
    """One run of text that begins with a capital; a name or code at its beginning stays as it is."""
    first = text.split(" ", 1)[0].rstrip(",.:;")
    plain_word = first.isascii() and first.isalpha() and first.islower()
    return inline(text[:1].upper() + text[1:] if plain_word else text)


def prose(text: str) -> Markup:
    """A docstring's text: paragraphs, lists and `code`; everything else is escaped."""
    paragraphs = [_paragraph(part) for part in re.split(r"\n\s*\n", text.strip()) if part.strip()]
    return Markup("").join(paragraphs)


def inline(text: str) -> Markup:
    """One run of text with its `code`."""
    joined = " ".join(text.split())
    pieces = _CODE.split(clipped(printable(joined), 1600))
    return Markup("").join(
        Markup("<code>") + escape(piece) + Markup("</code>") if index % 2 else escape(piece)
        for index, piece in enumerate(pieces)
    )


def _paragraph(text: str) -> Markup:
    lines = text.strip().splitlines()
    if all(line.lstrip().startswith("- ") for line in lines):
        items = Markup("").join(Markup("<li>") + inline(line.lstrip()[2:]) + Markup("</li>") for line in lines)
        return Markup("<ul>") + items + Markup("</ul>")
    return Markup("<p>") + inline(text) + Markup("</p>")
