"""What healthy models measure.

`healthy.json` is made by `benchmarks/healthy_ranges.py`; `healthy_runs.json`, over whole trainings, by
`benchmarks/healthy_runs.py`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_FILES = {name: Path(__file__).parents[1] / f"{name}.json" for name in ("healthy", "healthy_runs")}


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
        raise KeyError(f"no range for {quantity!r}; run benchmarks/healthy_ranges.py or benchmarks/healthy_runs.py")
    entry = quantities[quantity]
    return Range(float(entry["lowest"]), float(entry["highest"]), int(entry["count"]))


@cache
def _quantities() -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for path in _FILES.values():
        found.update(json.loads(path.read_text(encoding="utf-8"))["quantities"])
    return found
