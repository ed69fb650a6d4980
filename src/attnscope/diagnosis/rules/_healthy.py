"""What healthy models measure: the ranges of `healthy.json`, made by `benchmarks/healthy_ranges.py`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_FILE = Path(__file__).parents[1] / "healthy.json"


@dataclass(frozen=True)
class Range:
    """The lowest and highest value of a quantity over healthy models, and how many values that is."""

    lowest: float
    highest: float
    count: int


@cache
def healthy(quantity: str) -> Range:
    """The range of a quantity.

    Args:
        quantity: a key of the data file.

    Raises:
        KeyError: the file has no such quantity; the command that makes it is named.
    """
    quantities = _quantities()
    if quantity not in quantities:
        raise KeyError(f"no range for {quantity!r} in {_FILE.name}; run benchmarks/healthy_ranges.py")
    entry = quantities[quantity]
    return Range(float(entry["lowest"]), float(entry["highest"]), int(entry["count"]))


@cache
def _quantities() -> dict[str, dict[str, float]]:
    data = json.loads(_FILE.read_text(encoding="utf-8"))
    found: dict[str, dict[str, float]] = data["quantities"]
    return found
