"""The spectra of a pre-trained encoder are the published ones, and the laws hold while it is fine-tuned."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attnscope.errors import CaseError
from attnscope.models.distilbert import weights_folder
from attnscope.readings import NOT_APPLICABLE, Reading
from attnscope.record import Run
from attnscope.tasks.movie_reviews import reviews_file

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

try:
    weights_folder(), reviews_file()
except CaseError as error:
    pytest.skip(str(error), allow_module_level=True)

from attention_ranks import OPTIMIZERS, fine_tuned, summary


@pytest.fixture(scope="module")
def adamw() -> Run:
    return fine_tuned(OPTIMIZERS["AdamW, rate 5e-5"], steps=4)


@pytest.fixture(scope="module")
def descent() -> Run:
    return fine_tuned(lambda model: torch.optim.SGD(model.parameters(), lr=0.5), steps=4)


def ranks(reading: Reading, name: str) -> np.ndarray[Any, Any]:
    return np.array([summary(reading, layer)[name] for layer in range(6)])


def test_the_query_key_spectra_are_the_measured_ones(adamw: Run) -> None:
    """Scanned by independent code: effective rank 29.0 to 30.8 of 31.3, stable rank 9.9 to 12.9 of 16.5."""
    reading = adamw.at(0)["query_key_spectrum"]
    assert reading.values.shape == (6, 12, 32)
    effective, stable = ranks(reading, "effective_rank mean"), ranks(reading, "stable_rank mean")
    assert (effective.min(), effective.max()) == pytest.approx((29.0, 30.8), abs=0.06)
    assert ranks(reading, "effective_rank lowest").min() == pytest.approx(21.4, abs=0.06)
    assert (stable.min(), stable.max()) == pytest.approx((9.9, 12.9), abs=0.06)
    assert ranks(reading, "stable_rank lowest").min() == pytest.approx(2.8, abs=0.06)
    assert ranks(reading, "effective_rank random") == pytest.approx(31.3, abs=0.1)
    assert ranks(reading, "stable_rank random") == pytest.approx(16.5, abs=0.2)
    share = ranks(reading, "nuclear_share")
    assert (share.min(), share.max()) == pytest.approx((0.96, 0.98), abs=0.005)


def test_the_relative_imbalance_is_the_measured_one(adamw: Run) -> None:
    """0.41 to 0.53 relative to the mean of both sides, which is half of it relative to their sum."""
    balance = 2 * adamw.at(0)["query_key_balance"].values.mean(1)
    assert (balance.min(), balance.max()) == pytest.approx((0.41, 0.53), abs=0.02)


@pytest.mark.parametrize("name", ["query_key_change", "value_output_change"])
@pytest.mark.parametrize("optimizer", ["adamw", "descent"])
def test_a_change_by_gradients_has_lower_rank_than_a_random_one(
    name: str, optimizer: str, request: pytest.FixtureRequest
) -> None:
    run: Run = request.getfixturevalue(optimizer)
    assert (run.at(0)[name].values == 0).all()
    reading = run.at(4)[name]
    assert (ranks(reading, "stable_rank mean") < ranks(reading, "stable_rank random") / 2).all()


def test_plain_descent_keeps_the_balance_and_adamw_claims_nothing(adamw: Run, descent: Run) -> None:
    step, drift = descent.at(4)["balance_step"], descent.at(4)["balance_drift"]
    assert step.facts["violated"] == []
    assert np.nanmax(step.values) < 0.05
    assert np.nanmax(drift.values) < 0.05
    for name in ("balance_step", "balance_drift"):
        assert adamw.at(4)[name].status == NOT_APPLICABLE
