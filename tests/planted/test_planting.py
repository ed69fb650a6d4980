"""The planting itself: edits, truth and scores are what they say; every kind is planted in two models or more."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
import torch
from planting import held_out
from planting.controls import CONTROLS
from planting.editing import Edit, edited
from planting.everything import PLANTED
from planting.planted import Row, Truth, scored
from planting.reasons import REASONS

from attnscope import catalogue
from attnscope.anatomy.blocks import Source
from attnscope.findings import Finding, Severity

# The kinds of section 5 of the plan, in the words of the table.
KINDS = {
    "future leak", "padding attended", "padding mask inverted", "mask after softmax", "softmax over the wrong axis",
    "rows not normalised", "softmax twice", "scale", "attention across examples", "heads split without the transpose",
    "heads merged without the transpose", "shared by mistake", "parameter without use", "cut gradient",
    "left out of the optimiser", "not registered", "dropout in eval", "dropout before the softmax",
    "not deterministic", "positions missing", "positions constant", "positions shifted", "rotary positions",
    "residual dropped", "norm gain", "zeroed", "swapped", "duplicated", "saturated scores", "uniform attention",
    "rank collapse", "overflow in half precision", "NaN or Inf", "beyond the stability limit",
    "learning rate out of line", "cache position", "labels unshifted", "labels without signal",
}  # fmt: skip


def test_every_kind_is_planted_in_two_models() -> None:
    models: dict[str, set[str]] = {}
    for planted in PLANTED:
        models.setdefault(planted.kind, set()).add(planted.model)
    assert set(models) >= KINDS
    assert not {kind for kind, names in models.items() if len(names) < 2}


def test_names_are_unique_and_reasons_name_something() -> None:
    names = [planted.name for planted in (*PLANTED, *held_out.PLANTED)]
    assert len(set(names)) == len(names)
    controls = [f"{control.group}: {control.name}" for control in CONTROLS]
    assert len(set(controls)) == len(controls)
    for pattern in REASONS:
        assert any(fnmatchcase(name, pattern) for name in names + controls), pattern


def test_a_copy_without_edits_computes_the_same() -> None:
    module, lines = edited("attnscope.models.vit")
    assert lines == ()
    torch.manual_seed(0)
    original = catalogue.load("models", "vit")()
    copied = module.Vit()
    copied.load_state_dict(original.state_dict())
    images = torch.randn(2, 1, 12, 12)
    assert torch.equal(original(images), copied(images))


def test_the_truth_is_the_edited_line() -> None:
    _, lines = edited(
        "attnscope.models.vit", Edit("query = query * self.scale", "query = 2 * query\nquery = query / 2")
    )
    assert [line.text for line in lines] == ["query = 2 * query", "query = query / 2"]
    with open(lines[0].file, encoding="utf-8") as file:
        assert file.read().split("\n")[lines[0].line - 1].strip() == "query = 2 * query"


def test_a_line_taken_away_is_known_by_its_neighbours() -> None:
    _, lines = edited("attnscope.models.vit", Edit("query = query * self.scale", ""))
    assert [line.text for line in lines] == [
        "query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)",
        "scores = query @ key.transpose(-2, -1)",
    ]


@pytest.mark.parametrize(("old", "count"), [("no such line", 0), ("super().__init__()", 3)])
def test_a_line_must_be_there_once(old: str, count: int) -> None:
    with pytest.raises(ValueError, match=f"has {count} lines"):
        edited("attnscope.models.gpt", Edit(old, ""))


def finding(kind: str, place: str, line: int = 0) -> Finding:
    source = Source("model.py", line) if line else None
    return Finding("X1", kind, "", Severity.ERROR, 1.0, place, source=source)


def test_scores_of_a_row() -> None:
    truth = Truth(("wrong_scale",), ("L*.scale",), (Source("model.py", 10),))
    row = Row("scale", "missing", "gpt")
    scored(row, (finding("other", "L0.mask"), finding("wrong_scale", "L1.scale", 12)), truth)
    assert (row.found, row.rank, row.place, row.line, row.others) == (True, 2, True, "near", ["X1 other L0.mask"])
    scored(row, (finding("wrong_scale", "L0.mask", 10),), truth)
    assert (row.rank, row.place, row.line) == (1, False, "exact")
    missed = Row("scale", "missing", "gpt")
    scored(missed, (finding("other", "L0.scale", 10),), truth)
    assert not missed.found
    far = Row("scale", "missing", "gpt")
    scored(far, (finding("wrong_scale", "L0.scale", 40),), truth)
    assert far.line == "no"
