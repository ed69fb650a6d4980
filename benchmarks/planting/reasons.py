"""Why a case fails, in one clause each; the pages print them beside the failures."""

from __future__ import annotations

from fnmatch import fnmatchcase

# Pattern of the case's name (`kind/model/variant`, or `group: name` for a control) -> why.
REASONS: dict[str, str] = {}


def reason_for(name: str) -> str:
    """The reason whose pattern fits the name first."""
    return next((reason for pattern, reason in REASONS.items() if fnmatchcase(name, pattern)), "not explained yet")
