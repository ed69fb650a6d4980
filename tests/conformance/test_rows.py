"""One row per model: what trace finds is what was written down by hand."""

from __future__ import annotations

import json

import pytest
import torch

from attnscope.anatomy.blocks import Anatomy
from attnscope.anatomy.trace import trace

from . import rows_hf, rows_pooled, rows_torch, rows_user, rows_wild, rows_zoo
from .truth import Row, differences, params

ROWS = [*rows_zoo.ROWS, *rows_user.ROWS, *rows_pooled.ROWS, *rows_torch.ROWS, *rows_hf.ROWS, *rows_wild.ROWS]


def test_every_row_has_its_own_name() -> None:
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("row", params(ROWS))
def test_anatomy(row: Row) -> None:
    model, batch = row.make()
    model.train(row.train)
    anatomy = trace(model, batch)
    assert not (found := differences(row, model, anatomy)), "\n  " + "\n  ".join(found)
    _check_laws(anatomy, model)


def _check_laws(anatomy: Anatomy, model: torch.nn.Module) -> None:
    """What holds for every anatomy, whatever the model."""
    named = dict(model.named_parameters())
    covered = {name: torch.zeros(parameter.shape, dtype=torch.int) for name, parameter in named.items()}
    for block in anatomy.blocks:
        for part in block.slices:
            assert part.shape == tuple(named[part.parameter].shape)
            if part.dim is None:
                covered[part.parameter] += 1
            for start, stop in part.ranges:
                covered[part.parameter].narrow(part.dim or 0, start, stop - start).add_(1)
    wrong = {
        name: sorted(set(count.flatten().tolist())) for name, count in covered.items() if (count != 1).any()
    }
    assert not wrong, f"blocks must hold every parameter exactly once; times held: {wrong}"
    assert len({block.name for block in anatomy.blocks}) == len(anatomy.blocks)
    assert Anatomy.from_dict(json.loads(json.dumps(anatomy.to_dict()))) == anatomy
    heads = [block.name for block in anatomy.head_blocks()]
    assert len(set(heads)) == len(heads)
    assert str(anatomy)
