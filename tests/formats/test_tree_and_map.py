"""The tree that `attnscope trace` prints, and the map that terminal and page share."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

import diagnoses
from attnscope.anatomy.blocks import Anatomy
from attnscope.findings import Finding, Severity
from attnscope.formats.model_map import MOST_HEADS, Cell, State, home, model_map
from attnscope.formats.numbers import count, number, typeset
from attnscope.formats.tree import anatomy_tree


def drawn(anatomy: Anatomy, width: int = 240) -> str:
    sink = io.StringIO()
    Console(file=sink, width=width).print(anatomy_tree(anatomy))
    return sink.getvalue()


def at(cells: tuple[Cell, ...], place: str) -> Cell:
    return next(cell for cell in cells if cell.place == place)


def test_the_tree_names_every_part_with_its_line() -> None:
    written = drawn(diagnoses.anatomy(2, 4))
    for expected in (
        "2 attentions", "L1", "self, dot-product, 4 heads of 96", "layer.1.attention.q_lin.weight",
        "masked fill, before softmax, fill minus infinite, allows 71%", "reviews/model.py:62",
        "softmax over keys (dim -1)", "on the pattern 0.1", "added", "post: ", "outside attention",
        "word_embeddings", "['input_ids']", "431 operations",
    ):
        assert expected in written, expected


def test_every_parameter_is_in_the_tree() -> None:
    anatomy = diagnoses.anatomy(3, 2)
    written = drawn(anatomy, 400)
    for block in anatomy.blocks:
        for part in block.slices:
            assert str(part) in written


def test_the_tree_says_when_there_is_no_attention() -> None:
    assert "no attention found" in drawn(diagnoses.without_attention().anatomy)


def test_hostile_names_do_nothing_in_the_tree() -> None:
    written = drawn(diagnoses.hostile().anatomy, 600)
    assert "\x1b" not in written
    assert "\u202e" not in written
    assert "[red]x[/red]" in written


def test_the_map_shows_each_finding_at_its_place() -> None:
    plan = model_map(diagnoses.faulty())
    assert at(plan.cells, "L3.mask").state is State.ERROR
    assert at(plan.cells, "L3.mask").findings == (0,)
    head = at(plan.cells, "L2H5")
    assert (head.state, head.parts, head.findings) == (State.WARNING, ("K", "O", "Q", "V"), (1,))
    assert at(plan.cells, "classifier").state is State.NOTE
    assert at(plan.cells, "L4.mask").state is State.EFFECT
    assert at(plan.cells, "L5").state is State.EFFECT
    assert at(plan.cells, "L0.mask").state is State.CLEAR


@pytest.mark.parametrize(
    "place",
    ["L1.K", "L1H0.V", "L1", "L1.cache", "L1.scores", "model", "data", "somewhere.else", "classifier.weight",
     "distilbert.transformer.layer.1.sa_layer_norm", "distilbert.transformer.layer.1.ffn.lin1.weight", "L9.K",
     "L1H99.K", "L1.norm", "", "<b>"],
)
def test_no_finding_is_lost(place: str) -> None:
    finding = Finding("XYZ101", "kind", "summary", Severity.ERROR, 1.0, place)
    diagnosis = replace(diagnoses.healthy(3, 4), findings=(finding,))
    marked = [cell for cell in model_map(diagnosis).cells if cell.findings]
    assert len(marked) == 1, marked
    assert marked[0].state is State.ERROR


def test_a_healthy_map_is_calm() -> None:
    states = {cell.state for cell in model_map(diagnoses.healthy()).cells}
    assert states == {State.CLEAR}


def test_what_the_model_lacks_is_absent() -> None:
    anatomy = diagnoses.anatomy(2, 2)
    full = anatomy.attentions
    bare = replace(full[0], mask=(), dropout=(), positions=("none",), residual=False, blocks={}, norms=())
    changed = replace(anatomy, attentions=(bare, full[1]))
    cells = model_map(replace(diagnoses.healthy(2, 2), anatomy=changed)).cells
    for place in ("L0.mask", "L0.dropout", "L0.positions", "L0.residual", "L0.Q"):
        assert at(cells, place).state is State.ABSENT, place
    assert at(cells, "L1.mask").state is State.CLEAR


def test_shared_projections_are_marked_in_every_layer() -> None:
    anatomy = diagnoses.anatomy(3, 2)
    shared = tuple(replace(item, blocks=anatomy.attentions[0].blocks) for item in anatomy.attentions)
    finding = Finding("XYZ101", "kind", "summary", Severity.ERROR, 1.0, "L0.K")
    diagnosis = replace(
        diagnoses.healthy(3, 2), anatomy=replace(anatomy, attentions=shared), findings=(finding,),
    )
    cells = model_map(diagnosis).cells
    assert [at(cells, f"L{layer}.K").state for layer in range(3)] == [State.ERROR] * 3


def test_very_wide_models_keep_the_heads_that_matter() -> None:
    finding = Finding("XYZ101", "kind", "summary", Severity.ERROR, 1.0, "L0H127.K")
    diagnosis = replace(diagnoses.healthy(2, 128), findings=(finding,))
    plan = model_map(diagnosis)
    assert plan.hidden_heads == 128 - MOST_HEADS - 1
    assert at(plan.cells, "L0H127").state is State.ERROR


def test_places_and_their_cells() -> None:
    assert home("L2H5.K") == ("L2H5", "K")
    assert home("L2.K") == ("L2.K", "")
    assert home("classifier") == ("classifier", "")


@pytest.mark.parametrize(
    ("value", "plain", "set_in_type"),
    [
        (0.0, "0", "0"), (None, "–", "–"), (0.4312, "0.431", "0.431"), (-0.5, "-0.5", "−0.5"),
        (1.234e-7, "1.23e-07", "1.23\u2009×\u200910⁻⁷"), (12800.0, "12\u2009800", "12\u2009800"),
        (float("nan"), "not a number", "not a number"), (float("-inf"), "minus infinite", "minus infinite"),
        (3.0, "3", "3"), (-2.5e8, "-2.5e+08", "−2.5\u2009×\u200910⁸"), (1.5, "1.5", "1.5"),
    ],
)
def test_numbers_are_written_for_people(value: float | None, plain: str, set_in_type: str) -> None:
    assert number(value) == plain
    assert typeset(value) == set_in_type


def test_counts() -> None:
    assert count(1, "finding") == "1 finding"
    assert count(2, "finding") == "2 findings"
    assert count(2, "loss", "losses") == "2 losses"
