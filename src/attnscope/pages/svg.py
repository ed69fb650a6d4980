"""The SVG pieces of every figure. Colours are classes, so that light, dark and print agree."""

from __future__ import annotations

from html import escape
from typing import Any

from attnscope.plain import printable

Markup = str


def element(tag: str, body: str = "", **attributes: Any) -> Markup:
    """One element; attribute values are escaped, `body` is markup already; `class_` becomes `class`."""
    said = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    return f"<{tag}{said}>{body}</{tag}>" if body or tag in ("text", "g") else f"<{tag}{said}/>"


def words(
    said: object, x: float, y: float, *, anchor: str = "start", class_: str = "t", **more: Any,
) -> Markup:
    """A line of text; user text is inert in it."""
    anchored = None if anchor == "start" else anchor
    return element(
        "text", escape(printable(str(said))), x=x, y=y, text_anchor=anchored, class_=class_, **more,
    )


def tooltip(said: object) -> Markup:
    """What is said when the pointer rests on an element, as its first child; user text is inert in it."""
    return element("title", escape(printable(str(said))))


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """A straight line."""
    return element("path", d=f"M{_number(x1)} {_number(y1)}L{_number(x2)} {_number(y2)}", class_=class_)


def picture(width: float, height: float, body: Markup, *, label: str, **more: Any) -> Markup:
    """The whole figure, with its description for those who cannot see it."""
    return element(
        "svg", body, viewBox=f"0 0 {_number(width)} {_number(height)}", width=width, height=height,
        role="img", aria_label=printable(label), **more,
    )


def polyline(points: list[tuple[float, float] | None]) -> str:
    """Path data through the points; None lifts the pen."""
    parts, down = [], False
    for point in points:
        if point is None:
            down = False
            continue
        parts.append(f"{'L' if down else 'M'}{_number(point[0])} {_number(point[1])}")
        down = True
    return "".join(parts)


def short(label: object, most: int = 22) -> str:
    """A label that fits: the end of a path says more than its beginning."""
    said = printable(str(label))
    return said if len(said) <= most else f"…{said[-(most - 1):]}"


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _value(value: Any) -> str:
    if isinstance(value, float):
        return _number(value)
    return escape(str(value), quote=True)
