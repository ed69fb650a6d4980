"""The truth is tested too: by moving parameters and looking at what moves, without attnscope."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from . import rows_pooled, rows_user, rows_zoo
from .truth import P, Row, marked_lines

OWN = [
    row
    for row in (*rows_zoo.ROWS, *rows_user.ROWS, *rows_pooled.ROWS)
    if row.truth and not row.name.startswith("Multihead")
]
WITH_HEADS = [row for row in OWN if any("query" in truth.heads for truth in row.truth)]
MIXES_HEADS = {"talking heads"}


def record(row: Row, parts: tuple[P, ...] = ()) -> list[dict[str, Tensor]]:
    """What the model records about its attentions, with some parameters moved."""
    model, batch = row.make()
    model.eval()
    keep: list[dict[str, Tensor]] = []
    with torch.no_grad():
        move(model, parts)
        model(**batch, keep=keep) if isinstance(batch, dict) else model(batch, keep=keep)
    return keep


def move(model: nn.Module, parts: tuple[P, ...]) -> None:
    named = dict(model.named_parameters())
    for part in parts:
        if part.dim is None:
            named[part.name].mul_(1.5).add_(0.3)
        for start, stop in part.ranges:
            named[part.name].narrow(part.dim or 0, start, stop - start).mul_(1.5).add_(0.3)


@pytest.mark.parametrize("row", WITH_HEADS, ids=lambda row: row.name)
@pytest.mark.parametrize("role", ["query", "key"])
def test_a_head_moves_its_own_scores_only(row: Row, role: str) -> None:
    before = record(row)
    for number, truth in enumerate(row.truth):
        if role not in truth.heads or (number and truth.module == row.truth[0].module):
            continue  # a layer that is used again is moved by what it did before
        shared = truth.n_heads // (truth.n_key_heads or truth.n_heads) if role == "key" else 1
        everyone = list(range(truth.n_heads))
        for parts, expected in zip(truth.heads[role], (everyone[:shared], everyone[-shared:]), strict=True):
            after = record(row, parts)[number]["scores"]
            change = (after - before[number]["scores"]).nan_to_num(0.0).abs().amax(dim=(0, 2, 3))
            moved = change.gt(1e-6).nonzero().flatten().tolist()
            assert moved == (everyone if row.name in MIXES_HEADS else expected)


@pytest.mark.parametrize("row", [row for row in OWN if len(row.truth) == 1], ids=lambda row: row.name)
def test_a_projection_moves_what_it_should(row: Row) -> None:
    """Query, key and scoring parameters move the scores; value and output parameters leave them alone."""
    (truth,), (before,) = row.truth, record(row)
    for role in ("query", "key", "scoring", "value", "output"):
        parts = getattr(truth, role)
        for part in parts if isinstance(parts, tuple) else ():
            (after,) = record(row, (part,))
            moved = not torch.equal(before["scores"].nan_to_num(0.0), after["scores"].nan_to_num(0.0))
            only_bias = part.name.endswith(".bias") and role == "scoring"
            assert moved == (role in ("query", "key", "scoring")) or only_bias, f"{role} {part}"


@pytest.mark.parametrize("row", [row for row in OWN if not row.train], ids=lambda row: row.name)
def test_masks_allow_the_share_that_is_written(row: Row) -> None:
    for truth, found in zip(row.truth, record(row), strict=True):
        if len(truth.masks) == 1 and isinstance(truth.masks[0].allowed_share, float):
            empty = found["scores"] == 0 if truth.masks[0].how == "multiply" else found["pattern"] < 1e-6
            if truth.masks[0].when == "after_softmax":
                empty = found["pattern"] == 0
            hopeless = empty.all(-1) | (found["pattern"].std(-1) < 1e-9)  # a row that is masked whole
            assert not hopeless.all()
            if not hopeless.any():
                assert 1 - empty.float().mean() == pytest.approx(truth.masks[0].allowed_share, abs=1e-6)


@pytest.mark.parametrize("row", OWN, ids=lambda row: row.name)
def test_every_mark_is_in_the_source(row: Row) -> None:
    model, _ = row.make()
    for truth in row.truth:
        path = truth.module[0] if isinstance(truth.module, tuple) else truth.module
        for mark in truth.marks:
            assert marked_lines(model.get_submodule(path), mark)
