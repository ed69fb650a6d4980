"""Learned: all that the combination learns from training folds, as a small readable file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attnscope.diagnosis.calibration import Calibration
from attnscope.whole_file import write_whole

SCHEMA = 2
FINDING, SITE = "finding", "site"
FAMILIES = (
    "gradient", "gradient_variance", "update", "turn", "activation", "ablation", "curvature",
    "negative_share", "preconditioned", "coupling", "attention",
)  # fmt: skip
# What is believed before any lesson, and held to where lessons say nothing: findings come first, all families weigh
# the same, and what was read is the block, from which sites borrow.
PLACES: Mapping[str, float] = {FINDING: 10.0, **dict.fromkeys(FAMILIES, 0.1), SITE: -1e-3}
DETECTION: Mapping[str, float] = {FINDING: 10.0, **dict.fromkeys(FAMILIES, 0.1), "intercept": -3.0}


@dataclass(frozen=True)
class Learned:
    """What the combination learns.

    Attributes:
        places: what a finding at a place and each family of readings weighs in the order of places. Before
            anything is learnt a finding comes first and all families weigh the same. `site` is what speaks for
            a site against the block that it borrows its readings from.
        detection: what the surest finding and the oddest places of each family weigh in the suspicion, and the
            intercept. Where a mistake is and whether there is one are not told by the same families: another
            learning rate moves activations everywhere.
        calibration: what a finding's confidence is worth.
        about: which rows it was learnt from, by which command.
    """

    places: Mapping[str, float] = field(default_factory=lambda: dict(PLACES))
    detection: Mapping[str, float] = field(default_factory=lambda: dict(DETECTION))
    calibration: Calibration = field(default_factory=Calibration)
    about: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "schema": SCHEMA,
            "about": dict(self.about),
            "places": {name: round(value, 4) for name, value in self.places.items()},
            "detection": {name: round(value, 4) for name, value in self.detection.items()},
            "calibration": self.calibration.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Learned:
        """The inverse of `to_dict`.

        Raises:
            ValueError: it is of another schema.
        """
        if data.get("schema") != SCHEMA:
            raise ValueError(f"expected what was learnt in schema {SCHEMA}, found {data.get('schema')!r}; learn again")
        return cls(
            {name: float(value) for name, value in data["places"].items()},
            {name: float(value) for name, value in data["detection"].items()},
            Calibration.from_dict(data["calibration"]),
            dict(data.get("about", {})),
        )

    def save(self, path: str | Path) -> Path:
        """Writes it as JSON; the file appears whole or not at all."""
        return write_whole(path, json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")

    @classmethod
    def open(cls, path: str | Path) -> Learned:
        """Reads what `save` wrote."""
        return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
