"""The whole diagnosis as JSON: what `attnscope report` reads back."""

from __future__ import annotations

import json

from attnscope.findings import Diagnosis


def to_json(diagnosis: Diagnosis) -> str:
    """Everything that is known, as JSON that every parser reads (numbers that are not finite are strings)."""
    return json.dumps(diagnosis.to_dict(), indent=1, allow_nan=False)
