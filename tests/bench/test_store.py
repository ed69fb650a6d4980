"""The journal survives a kill at any byte; the columnar file gives back what was put in."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnscope.bench.row import Named, Row
from attnscope.bench.store import Store, read_columns, write_columns
from attnscope.errors import RecordError


def row(key: str, **more: object) -> Row:
    return Row(key, "han_keyed", "han", "keyed", "fault", "missing_scale", **more)  # type: ignore[arg-type]


FULL = row(
    "a/b",
    layer=1,
    strength=0.5,
    places=("L1.scale",),
    blocks=("L1.Q", "L1.K"),
    roles=("query", "key"),
    layers=(1, 1),
    sizes=(4, 4),
    block_values={"gradient_norm": (1.5, float("nan"))},
    layer_values={"entropy": {"L1": float("inf")}},
    head_values={"entropy": {"L1": (0.25, 0.5)}},
    pair_values={"L1.Q L1.K": 0.75},
    findings=(Named("SFT204", "wrong_scale", "L1.scale", "error", 1.0, "a.py:3"),),
    losses=(2.0, 1.0),
    why="odd \u202e text, \x1b[31m and \n a line",
)


def test_a_row_comes_back(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.append(FULL)
    (found,) = store.rows()
    assert math.isnan(found.block_values["gradient_norm"][1])
    assert found.to_dict() == FULL.to_dict()
    read, about = read_columns(write_columns([FULL], tmp_path / "r.parquet", {"size": "smoke"}))
    assert read[0].to_dict() == FULL.to_dict()
    assert about == {"size": "smoke"}


@given(cut=st.integers(0, 2000))
@settings(max_examples=40, deadline=None)
def test_a_kill_at_any_byte_costs_at_most_the_last_row(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("store")
    store = Store(folder)
    for name in ("one", "two", "three"):
        store.append(row(name))
    whole = store.journal.read_bytes()
    ends = [index + 1 for index, byte in enumerate(whole) if byte == ord("\n")]
    cut = min(cut, len(whole))
    store.journal.write_bytes(whole[:cut])
    again = Store(folder)
    complete = sum(end <= cut for end in ends)
    # a line that lacks only its line break is whole, too
    assert complete <= len(again.rows()) <= complete + 1
    again.append(row("after"))
    assert "after" in {row.key for row in Store(folder).rows()}
    assert complete + 1 <= len(Store(folder).rows())


def test_the_same_rows_make_the_same_file(tmp_path: Path) -> None:
    rows = [row("b"), row("a")]
    first = write_columns(rows, tmp_path / "1.parquet", {}).read_bytes()
    assert first == write_columns(rows[::-1], tmp_path / "2.parquet", {}).read_bytes()


@pytest.mark.parametrize("content", [b"", b"not parquet", b"PAR1 and more PAR1"])
def test_a_file_of_others_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "r.parquet"
    path.write_bytes(content)
    with pytest.raises(RecordError, match="not a file of results"):
        read_columns(path)
    with pytest.raises(RecordError, match="attnscope bench run"):
        read_columns(tmp_path / "absent.parquet")


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RecordError, match="cannot make"):
        Store(tmp_path / "file" / "inside")
