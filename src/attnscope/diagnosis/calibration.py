"""What a confidence that a rule states is worth: measured on planted mistakes, kept in `confidences.json`.

Made by `python benchmarks/bench_docs.py` from the results of the benchmark that ship with the package. Without the
file confidences stay as rules state them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).parent / "confidences.json"
SCHEMA = 1
SHRINK = 8.0  # findings that the curve of all kinds is worth beside a kind's own


@dataclass(frozen=True)
class Calibration:
    """What confidences are worth.

    Attributes:
        confidences, precisions: the monotone curve of all kinds: of findings stated with this confidence, this
            share is right; straight between.
        kinds: kind -> [findings, how many more were right than the curve says].
    """

    confidences: tuple[float, ...] = ()
    precisions: tuple[float, ...] = ()
    kinds: Mapping[str, tuple[int, float]] = field(default_factory=dict)

    def shared(self, confidence: float) -> float:
        """The curve of all kinds; the confidence itself when there is none."""
        if not self.confidences:
            return confidence
        return float(np.interp(confidence, self.confidences, self.precisions))

    def probability(self, kind: str, confidence: float) -> float:
        """The share of findings of this kind, stated with this confidence, that are right."""
        count, more = self.kinds.get(kind, (0, 0.0))
        return min(max(self.shared(confidence) + more / (count + SHRINK), 0.0), 1.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "confidences": list(self.confidences),
            "precisions": list(self.precisions),
            "kinds": {kind: [count, more] for kind, (count, more) in self.kinds.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Calibration:
        """The inverse of `to_dict`."""
        return cls(
            tuple(map(float, data["confidences"])),
            tuple(map(float, data["precisions"])),
            {kind: (int(count), float(more)) for kind, (count, more) in data["kinds"].items()},
        )


@cache
def measured() -> Calibration:
    """What ships with the package; nothing learnt when the file is absent or of another schema."""
    try:
        data = json.loads(FILE.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return Calibration()
    return Calibration.from_dict(data["calibration"]) if data.get("schema") == SCHEMA else Calibration()
