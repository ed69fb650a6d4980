"""Every pattern and score lens against its definition, written as loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import observations
from attnscope import catalogue
from reference import naive_patterns as naive

TWINS: dict[str, Callable[..., float]] = {
    "attention_entropy": naive.entropy,
    "entropy_floor": naive.floor,
    "pattern_rank": naive.rank,
    "head_similarity": naive.similarity,
    "padding_mass": naive.padding,
    "future_mass": naive.future,
    "first_token_mass": naive.first,
    "row_sums": naive.row_sum,
    "distance_to_uniform": naive.uniform,
    "pattern_support": naive.forbidden,
    "positional_share": naive.positional,
    "largest_score": naive.largest,
    "score_variance": naive.variance,
    "score_overflow": naive.overflow,
}
MASKS: dict[str, Any] = {
    "padded": lambda ids: observations.padding(ids),
    "causal and padded": lambda ids: observations.padding(ids) & observations.causal(ids.shape[1]),
    "causal": lambda ids: observations.causal(ids.shape[1]),
    "none": lambda ids: torch.ones(1, 1, 1, 1, dtype=torch.bool),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", TWINS)
def test_agrees_with_its_definition(name: str, mask: str) -> None:
    ids = observations.tokens()
    probe = observations.standard(allowed=MASKS[mask](ids), seed=3)
    reading = catalogue.load("lenses", name)().measure(probe)
    real = (ids != observations.PAD).numpy()
    assert reading.ok, reading.note
    for layer, one in enumerate(probe.observation.attentions):
        for head in range(3):
            expected = TWINS[name](one, real, head)
            assert reading.values[layer, head] == pytest.approx(expected, rel=1e-9, abs=1e-12), (layer, head)


def test_a_pattern_of_another_shape_is_measured_too() -> None:
    """Learned queries: one query, no position of its own, keys of another length."""
    probe = observations.standard()
    first = probe.observation.attentions[0]
    names = ("query", "scores", "pattern", "softmax_output", "raw_scores", "context")
    probe = observations.altered(probe, hidden=None, **{name: getattr(first, name)[:, :, :1] for name in names})
    for name in TWINS:
        reading = catalogue.load("lenses", name)().measure(probe)
        assert reading.status in ("ok", "not_applicable"), (name, reading.note)
        assert np.isfinite(reading.values[1]).all(), name
