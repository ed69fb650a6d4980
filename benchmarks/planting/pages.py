"""The pages that the commands write: tables of what was found, from the rows and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def planted_page(kinds: Mapping[str, Sequence[Any]], data: Mapping[str, Any]) -> str:
    """`docs/planted_faults.md`."""
    return ""


def controls_page(data: Mapping[str, Any]) -> str:
    """`docs/negative_controls.md`."""
    return ""
