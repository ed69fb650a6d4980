"""Banks: the healthy rows that a row may be compared with, in each of the two settings, which are never mixed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from attnscope.bench.row import HEALTHY, Row

UNPAIRED, PAIRED = "unpaired", "paired"
SETTINGS = (UNPAIRED, PAIRED)
BankKey = tuple[str, float, int]


@dataclass(frozen=True)
class Banks:
    """Healthy rows by subject and moment.

    In the unpaired setting a row is compared with healthy runs of the same subject and other seeds, looked at the
    same moment; in the paired one with the healthy run of the same seed and moment. A healthy row has no twin but
    itself, so the paired setting says nothing of healthy rows.
    """

    setting: str
    rows: dict[tuple[str, float], tuple[Row, ...]] = field(repr=False)

    @classmethod
    def of(cls, rows: Sequence[Row], setting: str) -> Banks:
        """From all rows; those that are not healthy are passed over.

        Raises:
            ValueError: there is no such setting.
        """
        if setting not in SETTINGS:
            raise ValueError(f"{setting!r} is not a setting; they are {', '.join(SETTINGS)}")
        found: dict[tuple[str, float], list[Row]] = {}
        for row in rows:
            if row.arm == HEALTHY and row.status == "ok":
                found.setdefault((row.subject, row.moment), []).append(row)
        return cls(setting, {key: tuple(items) for key, items in found.items()})

    def key(self, row: Row) -> BankKey:
        """Rows with the same key have the same bank."""
        return row.subject, row.moment, row.seed

    def bank(self, row: Row) -> tuple[Row, ...]:
        """The rows that this one is compared with."""
        healthy = self.rows.get((row.subject, row.moment), ())
        if self.setting == PAIRED:
            return tuple(item for item in healthy if item.seed == row.seed and item.key != row.key)
        return tuple(item for item in healthy if item.seed != row.seed)

    def speaks_of(self, row: Row) -> bool:
        """Whether the setting has anything to compare the row with."""
        return self.setting == UNPAIRED or (row.arm != HEALTHY and bool(self.bank(row)))
