"""Rules about the balance and the rank of queries and keys, at their borders."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from attnscope.diagnosis.rules import Severity
from attnscope.diagnosis.rules._healthy import healthy
from attnscope.readings import Reading
from diagnosis.test_rules import asked, attention, per_block, per_head

NAN = float("nan")


def drift(*rows: list[float], allowance: list[float] | None = None) -> Reading:
    given = [allowance or [0.01] * len(row) for row in rows]
    return per_head("balance_drift", list(rows), allowance=given)


def test_a_drift_is_judged_by_the_median_head_and_by_what_steps_explain() -> None:
    bound = (1 + healthy("balance_drift").highest) / 2
    above, below = (bound + 1) / 2, bound * 0.99
    assert asked("balance_moves", attention(), readings=(drift([below, below]),)) == []
    assert asked("balance_moves", attention(), readings=(drift([0.1, 0.1, above]),)) == []
    assert asked("balance_moves", attention(), readings=(drift([above, above], allowance=[0.6, 0.6]),)) == []
    (suspect,) = asked("balance_moves", attention(0), attention(1), readings=(drift([0.1, 0.1], [above, above]),))
    assert suspect.place == "L1.K"
    (unknown,) = asked("balance_moves", attention(), readings=(drift([above, above], allowance=[NAN, NAN]),))
    assert "finite steps" not in unknown.evidence[0].statement


def test_a_foreign_update_names_one_head_or_the_block() -> None:
    facts = {"tolerance": [[1e-4, 1e-4]]}
    healthy_step = per_head("balance_step", [[1e-6, 1e-6]], violated=[], **facts)
    assert asked("foreign_update", attention(), readings=(healthy_step,)) == []
    one = per_head("balance_step", [[1e-6, 0.4]], violated=[[0, 1]], **facts)
    both = per_head("balance_step", [[0.3, 0.4]], violated=[[0, 0], [0, 1]], **facts)
    assert [suspect.place for suspect in asked("foreign_update", attention(), readings=(one,))] == ["L0H1.K"]
    (suspect,) = asked("foreign_update", attention(), readings=(both,))
    assert suspect.place == "L0.K"
    assert suspect.evidence[0].exact
    assert suspect.evidence[0].value == 0.4


def spectrum(*heads: list[float], ranks: list[float] | None = None) -> Reading:
    values = np.array([heads], dtype=float)
    facts: dict[str, Any] = {}
    if ranks is not None:
        facts = {"effective_rank": [ranks], "random": [[{"effective_rank": 7.0} for _ in ranks]]}
    coords = {"layer": (0,), "head": tuple(range(len(heads)))}
    return Reading("query_key_spectrum", values, ("layer", "head", "direction"), "1", coords=coords, facts=facts)


FULL = [4.0, 3.0, 2.0, 1.0]


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([4.0, 1e-9, 1e-9, 1e-9], True),
        ([4.0, 2.0, 1e-9, 0.0], True),
        ([4.0, 2.0, 1.0, 1e-9], False),  # more than half are in use
        ([4.0, 1e-3, 1e-3, 1e-3], False),  # low rank as training makes it: what is unused keeps its start
        ([0.0, 0.0, 0.0, 0.0], False),  # a zero projection has a rule of its own
        ([4.0, 1e-9, NAN, NAN], False),  # two directions are too few to tell
    ],
)
def test_rank_is_lost_when_directions_are_zero_to_rounding(values: list[float], found: bool) -> None:
    suspects = asked("head_rank_collapsed", attention(), readings=(spectrum(FULL, values),))
    assert [suspect.place for suspect in suspects] == (["L0H1.Q"] if found else [])


def test_rank_lost_in_every_head_is_the_block() -> None:
    one = [4.0, 0.0, 0.0, 0.0]
    (suspect,) = asked("head_rank_collapsed", attention(), readings=(spectrum(one, one),))
    assert suspect.place == "L0.Q"


def folds(value: float) -> Reading:
    return per_block("decay_folds", {"L0.Q": value, "L0.K": value})


LOST = [1.0, 1.0]


def test_decay_needs_both_its_strength_and_a_loss() -> None:
    low, kept = spectrum(FULL, FULL, ranks=LOST), spectrum(FULL, FULL, ranks=[6.0, 6.0])
    for readings in ((folds(3.0), kept), (folds(0.5), low), (low,), (folds(3.0),)):
        assert asked("decay_eats_rank", attention(), readings=readings) == []
    (suspect,) = asked("decay_eats_rank", attention(), readings=(folds(3.0), low))
    assert suspect.severity is Severity.WARNING
    assert "lost their rank" in suspect.summary
    flat = per_head("score_variance", [[0.0, 1e-12]])
    (vanished,) = asked("decay_eats_rank", attention(), readings=(folds(3.0), kept, flat))
    assert vanished.severity is Severity.ERROR
    assert "vanished" in vanished.summary


@pytest.mark.parametrize(("optimizer", "found"), [("Adam", 1), ("AdamW", 0), ("SGD", 0)])
def test_decay_inside_an_adaptive_rate_counts_whatever_its_size(optimizer: str, found: int) -> None:
    readings = (
        spectrum(FULL, FULL, ranks=LOST),
        per_block("learning_rates", {"L0.Q": 1.0, "L0.K": 1.0}, weight_decay={"L0.Q": 0.01, "L0.K": 0.01}),
        per_block("update_to_weight", {"L0.Q": 1e-3, "L0.K": 1e-3}, optimizer=optimizer),
    )
    assert len(asked("decay_eats_rank", attention(), readings=readings)) == found
    without = (readings[0], per_block("learning_rates", {"L0.Q": 1.0}, weight_decay={}), readings[2])
    assert asked("decay_eats_rank", attention(), readings=without) == []
