"""The kill test against counting all flips, and what it says of whole benchmarks."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bench_rows
from attnscope.bench.kill import KILLED, SURVIVED, UNTESTED, mutant_of, sign_flip, verdicts
from attnscope.bench.row import Row


@given(st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=8))
def test_every_flip_is_counted(values: list[float]) -> None:
    flips = [sum(s * v for s, v in zip(signs, values, strict=True)) for signs in product((1, -1), repeat=len(values))]
    expected = sum(flip >= sum(values) - 1e-9 for flip in flips) / len(flips)
    assert sign_flip(values) == pytest.approx(expected)


def test_six_seeds_that_all_fall_give_the_least_p() -> None:
    assert sign_flip([0.1, 0.2, 0.05, 0.3, 0.01, 0.2]) == 1 / 64


def test_many_pairs_are_flipped_at_random_and_nearly_as_exact() -> None:
    values = np.random.default_rng(0).normal(0.4, 1.0, 25)
    normal = 0.5 * math.erfc(values.sum() / math.sqrt(2 * (values**2).sum()))
    assert sign_flip(values) == pytest.approx(normal, abs=0.01)


def test_a_fault_that_lowers_quality_is_killed_and_a_silent_one_survives() -> None:
    rows = bench_rows.bench(subjects=("han_keyed",), layers=(1,))
    found = {verdict.mutant[1]: verdict for verdict in verdicts(rows).values() if verdict.mutant[2] == "middle"}
    assert found["missing_scale"].verdict == KILLED
    assert found["missing_scale"].p == 1 / 64
    assert found["missing_scale"].fall == pytest.approx(0.3, abs=0.05)
    assert found["silent"].verdict == SURVIVED


def test_four_seeds_can_never_kill() -> None:
    rows = bench_rows.bench(subjects=("han_keyed",), seeds=range(4), layers=(1,))
    found = verdicts(rows)[mutant_of(bench_rows.faulty("missing_scale"))]
    assert (found.verdict, found.p) == (UNTESTED, 1 / 16)


def test_a_task_that_gets_easier_survives_and_is_told() -> None:
    rows = [replace(row, quality=0.99) if row.arm == "fault" else row for row in bench_rows.bench(layers=(1,))]
    found = verdicts(rows)[mutant_of(bench_rows.faulty("padding_attended"))]
    assert found.verdict == SURVIVED
    assert found.improved


def test_a_quality_that_is_no_number_counts_as_none() -> None:
    rows = [replace(row, quality=math.nan) if row.arm == "fault" else row for row in bench_rows.bench(layers=(1,))]
    found = verdicts(rows)[mutant_of(bench_rows.faulty("silent"))]
    assert found.verdict == KILLED
    assert found.fall == pytest.approx(0.9, abs=0.02)


def with_losses(rows: list[Row], healthy: float, faulty: dict[str, float]) -> list[Row]:
    """The same rows with a quality that tells nothing and a held-out loss that may."""
    return [
        replace(row, quality=1.0, held_out_loss=faulty[row.change] if row.arm == "fault" else healthy)
        for row in rows
        if row.arm != "fault" or row.change in faulty
    ]


def test_a_loss_that_rises_kills_where_every_answer_stays_right() -> None:
    rows = bench_rows.bench(subjects=("han_keyed",), layers=(1,))
    rows = with_losses(rows, 0.01, {"missing_scale": 0.02, "silent": 0.01})
    found = {verdict.mutant[1]: verdict for verdict in verdicts(rows).values() if verdict.mutant[2] == "middle"}
    assert (found["missing_scale"].verdict, found["missing_scale"].p) == (KILLED, 2 / 64)
    assert found["missing_scale"].rise == pytest.approx(0.01)
    assert (found["silent"].verdict, found["silent"].p) == (SURVIVED, 1.0)


def test_two_questions_cost_half_the_level_each() -> None:
    """Five seeds that all fall are enough for one question, not for two."""
    rows = bench_rows.bench(subjects=("han_keyed",), seeds=range(5), layers=(1,))
    mutant = mutant_of(bench_rows.faulty("missing_scale"))
    assert verdicts(rows)[mutant].verdict == KILLED
    both = [replace(row, held_out_loss=2.0 if row.arm == "fault" else 1.0) for row in rows]
    assert (verdicts(both)[mutant].verdict, verdicts(both)[mutant].p) == (UNTESTED, 2 / 32)


def test_a_loss_that_is_no_number_is_the_worst() -> None:
    rows = with_losses(bench_rows.bench(subjects=("han_keyed",), layers=(1,)), 1.0, {"silent": math.nan})
    found = verdicts(rows)[mutant_of(bench_rows.faulty("silent"))]
    assert (found.verdict, found.rise) == (KILLED, pytest.approx(1e6))


def test_a_missing_twin_is_passed_over() -> None:
    rows = [row for row in bench_rows.bench(layers=(1,)) if not (row.arm == "healthy" and row.seed == 3)]
    assert verdicts(rows)[mutant_of(bench_rows.faulty("frozen_key"))].n == 5


def test_cells_of_one_seed_are_tested_together() -> None:
    """Each seed at another place and strength: six pairs decide, not one."""
    common = {"subject": "s", "model": "m", "task": "t"}
    rows = [Row(f"h{seed}", arm="healthy", seed=seed, quality=0.9, **common) for seed in range(6)]
    cells = [(place, strength) for strength in (0.5, 1.0) for place in ("early", "middle", "late")]
    for seed, (where, strength) in enumerate(cells):
        rows.append(
            Row(f"f{seed}", arm="fault", change="x", where=where, strength=strength, seed=seed, quality=0.6, **common)
        )
    found = list(verdicts(rows).values())
    assert [(item.n, item.p, item.verdict, item.pooled) for item in found] == [(6, 1 / 64, KILLED, True)] * 6


def test_a_fault_without_a_strength_is_a_mutant_all_the_same() -> None:
    rows = [replace(row, strength=None) if row.arm == "fault" else row for row in bench_rows.bench(layers=(1,))]
    found = verdicts(rows)
    assert found[mutant_of(replace(bench_rows.faulty("frozen_key"), strength=None))].verdict == KILLED
