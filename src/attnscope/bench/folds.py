"""Folds: what is learnt and calibrated on, and what is held out. Every row is held out exactly once per split."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from attnscope.bench.row import FAULT, Row

SPLITS = ("subject", "kind", "where")
KIND_FOLDS = 5


@dataclass(frozen=True)
class Fold:
    """One part held out.

    Attributes:
        name: what is held out.
        train, test: indexes of rows.
    """

    name: str
    train: tuple[int, ...]
    test: tuple[int, ...]


def folds(rows: Sequence[Row], split: str) -> tuple[Fold, ...]:
    """The folds of a split.

    `subject`: each subject in turn. `kind`: kinds of fault in five groups, so that those of the test were never
    seen; kinds that one rule recognises stay together. `where`: early, middle and late places in turn. In the last
    two, healthy and control rows are held out by seed, so that no threshold is tested on what it was set with.

    Args:
        rows: any rows.
        split: one of `SPLITS`.

    Raises:
        ValueError: there is no such split.
    """
    if split == "subject":
        groups = [row.subject for row in rows]
    elif split == "kind":
        # Shuffled once by a checksum, then dealt in turn: the groups are even, and a rerun gives the same ones.
        kinds = sorted({family(row) for row in rows if row.arm == FAULT}, key=lambda kind: zlib.crc32(kind.encode()))
        group = {kind: number % KIND_FOLDS for number, kind in enumerate(kinds)}
        groups = [f"group {(group[family(row)] if row.arm == FAULT else row.seed % KIND_FOLDS) + 1}" for row in rows]
    elif split == "where":
        members = sorted({row.where for row in rows if row.arm == FAULT}) or [""]
        groups = [row.where if row.arm == FAULT else members[row.seed % len(members)] for row in rows]
    else:
        raise ValueError(f"{split!r} is not a split; they are {', '.join(SPLITS)}")
    found = []
    for name in sorted(set(groups)):
        test = tuple(index for index, group in enumerate(groups) if group == name)
        train = tuple(index for index, group in enumerate(groups) if group != name)
        found.append(Fold(name or "no layer", train, test))
    return tuple(found)


def family(row: Row) -> str:
    """The class of a fault: the rule that should name it, or the fault itself when no rule does."""
    return row.recognised_as[0] if row.recognised_as else row.change
