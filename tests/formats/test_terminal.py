"""The terminal form: complete, narrow when the terminal is, and inert whatever the names are."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

import diagnoses
from attnscope import formats

CALM = ("Nothing found: 6 attentions checked.", "no findings", "72 heads")


def test_a_finding_shows_all_that_supports_and_contradicts_it() -> None:
    written = formats.text(diagnoses.faulty(), width=180)
    for expected in (
        "ERROR MSK102 padding_attended", "at L3.mask", "reviews/model.py:62", "masked_fill(mask == 2",
        "moves the logits by 0.43", "seen 0.43, expected 0, exact", "Layers 0 to 2, 4 and 5", "L4.mask, L5",
        "or else", "try 1", "`mask == 0`", "confidence 1.00", "right on planted mistakes",
    ):
        assert expected in written, expected


def test_findings_keep_their_rank() -> None:
    written = formats.text(diagnoses.faulty())
    assert written.index("MSK102 pad") < written.index("PRJ304 dead") < written.index("CRV602 bey")


def test_a_healthy_model_gets_a_calm_and_informative_answer() -> None:
    written = formats.text(diagnoses.healthy())
    for expected in CALM:
        assert expected in written
    assert "ERROR" not in written


def test_the_map_marks_the_place() -> None:
    rows = [line.split() for line in formats.text(diagnoses.faulty()).splitlines()]
    layer = {row[0]: row for row in rows if row and row[0] in {"L2", "L3", "L4"}}
    assert layer["L3"][2] == "..E.."  # positions, scale, mask, softmax, dropout
    assert layer["L4"][2] == "..e.."
    assert layer["L2"][3] == ".....W......"


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    written = formats.text(diagnoses.faulty(), width=width)
    assert max(len(line) for line in written.splitlines()) <= width


def test_a_pipe_gets_no_escape_sequences_and_a_terminal_gets_colour() -> None:
    pipe, screen = io.StringIO(), io.StringIO()
    formats.print_text(diagnoses.faulty(), Console(file=pipe))
    formats.print_text(diagnoses.faulty(), Console(file=screen, force_terminal=True, color_system="standard"))
    assert "\x1b" not in pipe.getvalue()
    assert "\x1b[" in screen.getvalue()


def test_hostile_names_reach_the_terminal_inert() -> None:
    written = formats.text(diagnoses.hostile(), width=400)
    assert "\x1b" not in written
    assert "\u202e" not in written
    assert "\\u202egnp.exe" in written
    assert "[red]x[/red]" in written  # shown, not obeyed
    assert str(diagnoses.hostile()).count("\x1b") == 0


def test_no_attention_is_said_plainly() -> None:
    assert "No attention was found in this model." in formats.text(diagnoses.without_attention())


def test_print_and_notebook_show_the_same_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnscope.findings._drawn_in_notebooks", None)  # as when pages are not loaded
    diagnosis = diagnoses.faulty()
    for shown in (str(diagnosis), diagnosis._repr_html_()):
        for finding in diagnosis.findings:
            assert finding.code in shown
            assert finding.block_or_site in shown
    hostile = diagnoses.hostile()._repr_html_()
    assert "<script" not in hostile
    assert "<img" not in hostile
    assert "\u202e" not in hostile
