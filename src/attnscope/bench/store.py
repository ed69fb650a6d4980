"""Where rows are kept: a journal that only grows while cases run, and one compact columnar file of the result.

A row is on disk when `append` returns. A kill in the middle of a line costs that line alone: it is not read, and it
is cut off before the next one is written. A case whose row is there is never run again.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from attnscope.bench.row import Row
from attnscope.errors import RecordError

JOURNAL = "rows.jsonl"
DIGITS = 5  # significant digits that a stored number keeps
SCALARS = (
    "key", "subject", "model", "task", "arm", "change", "layer", "strength", "where", "seed", "moment", "step",
    "status", "why", "visibility", "quality", "loss", "gradient_seconds", "diagnosis_seconds",
)  # fmt: skip


class Store:
    """The rows of a folder.

    Args:
        folder: made when it is not there.

    Raises:
        RecordError: the folder cannot be made.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RecordError(f"cannot make {self.folder}: {error.strerror}") from error
        self._checked = False

    @property
    def journal(self) -> Path:
        """The file that grows."""
        return self.folder / JOURNAL

    def rows(self) -> list[Row]:
        """All whole rows; of two with the same key the later one."""
        if not self.journal.exists():
            return []
        found = {}
        for line in self.journal.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = Row.from_dict(json.loads(line))
            except (ValueError, TypeError, KeyError):
                continue  # half-written
            found[row.key] = row
        return list(found.values())

    def keys(self) -> set[str]:
        """The keys of the cases that have been run."""
        return {row.key for row in self.rows()}

    def append(self, row: Row) -> None:
        """Stores one row.

        Raises:
            RecordError: the folder cannot be written to.
        """
        line = json.dumps(_rounded(row.to_dict()), allow_nan=False) + "\n"
        try:
            if not self._checked:
                self._cut_half_line()
            with self.journal.open("ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RecordError(f"cannot write to {self.journal}: {error.strerror}") from error

    def _cut_half_line(self) -> None:
        self._checked = True
        if not self.journal.exists():
            return
        whole = self.journal.read_bytes()
        if whole and not whole.endswith(b"\n"):
            with self.journal.open("r+b") as file:
                file.truncate(whole.rfind(b"\n") + 1)


def write_columns(rows: Iterable[Row], path: str | Path, about: Mapping[str, str]) -> Path:
    """Writes rows as one Parquet file: a column per scalar, one JSON column for what is nested.

    Args:
        rows: sorted by key in the file, so that the same rows make the same file.
        path: replaced whole or not at all.
        about: provenance, kept as the file's metadata.

    Raises:
        RecordError: pyarrow is not installed.
    """
    arrow, parquet = _arrow()
    table: dict[str, list[Any]] = {name: [] for name in (*SCALARS, "nested")}
    for row in sorted(rows, key=lambda row: row.key):
        data = _rounded(row.to_dict())
        for name in SCALARS:
            table[name].append(data.pop(name))
        table["nested"].append(json.dumps(data, allow_nan=False))
    made = arrow.table(table).replace_schema_metadata({"attnscope": json.dumps(dict(about))})
    target = Path(path)
    part = target.with_name(target.name + ".part")
    parquet.write_table(made, part, compression="zstd", compression_level=19)
    part.replace(target)
    return target


def read_columns(path: str | Path) -> tuple[list[Row], dict[str, str]]:
    """The rows of a Parquet file, and what is known about how they were made.

    Raises:
        RecordError: there is no such file, it is not one of ours, or pyarrow is not installed.
    """
    arrow, parquet = _arrow()
    if not Path(path).exists():
        raise RecordError(f"there are no results at {path}; make them with `attnscope bench run`")
    try:
        table = parquet.read_table(path)
        about = json.loads((table.schema.metadata or {})[b"attnscope"])
        rows = []
        for line in table.to_pylist():
            nested = json.loads(line.pop("nested"))
            rows.append(Row.from_dict({**line, **nested}))
    except (arrow.ArrowException, ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{path} is not a file of results ({type(error).__name__}: {error})") from error
    return rows, about


def _arrow() -> tuple[Any, Any]:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise RecordError("results are stored with pyarrow; run: pip install 'attnscope[bench]'") from error


def _rounded(value: Any) -> Any:
    """Numbers to a few significant digits: what is measured is not known better, and the file stays small."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return value
