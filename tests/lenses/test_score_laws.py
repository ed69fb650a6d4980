"""What score lenses must say where the answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import observations
from attnscope.lenses.entropy_floor import EntropyFloor, entropy_floor
from attnscope.lenses.measured_scale import MeasuredScale
from attnscope.lenses.score_overflow import ScoreOverflow
from attnscope.lenses.score_rounding import ScoreRounding


@pytest.mark.parametrize(("scale", "expected"), [(None, 1.0), (1.0, 2.0), (0.25, 0.5), (12**-0.5, 2 / 12**0.5)])
def test_the_measured_scale_is_the_scale(scale: float | None, expected: float) -> None:
    reading = MeasuredScale().measure(observations.standard(scale=scale))
    assert reading.values == pytest.approx(expected, rel=1e-5)
    assert np.array(reading.facts["r2"]) == pytest.approx(1.0, abs=1e-9)


def test_a_bias_by_position_leaves_the_measured_scale_alone() -> None:
    bias = 5 * torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(2))
    ids = torch.randint(1, 9, (4, 6))
    model = observations.Stack(1, 12)
    layer = observations.tensors(model.layers[0], torch.randn(4, 6, 12), 3, bias=bias)
    reading = MeasuredScale().measure(observations.probe(model, [layer], ids, n_heads=3))
    assert reading.values == pytest.approx(1.0, rel=1e-5)


def test_a_bias_is_taken_off_where_two_examples_show_it_and_the_rest_left_out() -> None:
    bias = 5 * torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(2))
    mask = observations.causal() & observations.padding(observations.tokens())
    probe = observations.standard(bias=bias, allowed=mask)
    assert MeasuredScale().measure(probe).values == pytest.approx(1.0, rel=1e-4)


def test_examples_that_are_all_alike_still_have_a_scale() -> None:
    model = observations.Stack(1, 12)
    layer = observations.tensors(model.layers[0], torch.randn(1, 6, 12).expand(4, -1, -1), 3)
    probe = observations.probe(model, [layer], torch.ones(4, 6, dtype=torch.long), n_heads=3)
    assert MeasuredScale().measure(probe).values == pytest.approx(1.0, rel=1e-5)


def test_noise_on_the_scores_shows_in_r2() -> None:
    probe = observations.standard(n_layers=1)
    scores = probe.observation.attentions[0].scores
    noise = 3 * torch.randn(scores.shape, generator=torch.Generator().manual_seed(0))
    probe = observations.altered(probe, scores=scores + noise)
    assert np.array(MeasuredScale().measure(probe).facts["r2"]).max() < 0.5


@pytest.mark.parametrize(("n", "norm"), [(2, 1.0), (3, 0.1), (8, 3.0), (16, 1.0), (16, 8.0)])
def test_no_entropy_lies_below_the_floor_and_one_reaches_it(n: int, norm: float) -> None:
    """Brute force: gradient descent on the entropy over scores of that norm, from many starts."""
    torch.manual_seed(0)
    free = torch.randn(40, n, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([free], lr=0.05)
    for _ in range(300):
        centred = free - free.mean(-1, keepdim=True)
        scores = norm * centred / centred.norm(dim=-1, keepdim=True)
        entropy = torch.special.entr(scores.softmax(-1)).sum(-1)
        optimizer.zero_grad()
        entropy.sum().backward()
        optimizer.step()
    floor = float(entropy_floor(torch.tensor(norm, dtype=torch.float64), torch.tensor(float(n)).double()))
    assert float(entropy.detach().min()) >= floor - 1e-9
    alone = torch.zeros(n, dtype=torch.float64)
    alone[0] = norm * math.sqrt(n / (n - 1))
    assert float(torch.special.entr(alone.softmax(-1)).sum()) == pytest.approx(floor, rel=1e-9, abs=1e-12)
    assert float(entropy.detach().min()) == pytest.approx(floor, abs=2e-3)


@pytest.mark.parametrize("factor", [0.1, 1.0, 10.0, 300.0])
def test_the_gap_to_the_floor_is_never_negative(factor: float) -> None:
    reading = EntropyFloor().measure(observations.standard(scale=factor, seed=5))
    assert np.array(reading.facts["gap"]).min() >= -1e-6


def test_overflow_is_seen_where_half_precision_overflows() -> None:
    probe = observations.standard(n_layers=1)
    raw = probe.observation.attentions[0].raw_scores
    assert raw is not None
    assert not ScoreOverflow().measure(probe).facts["overflowing"]
    raw = raw * (1.01 * 65504 / raw.abs().max())
    assert raw.half().isinf().any()
    assert ScoreOverflow().measure(observations.altered(probe, raw_scores=raw)).facts["overflowing"]


@pytest.mark.parametrize(
    ("offset", "least", "most"),
    [
        (0.0, 0.0, 0.002),
        (100.0, 0.02, 0.2),
        (1e5, 0.1, 1.0),
    ],
)
def test_rounding_grows_with_the_size_of_the_scores(offset: float, least: float, most: float) -> None:
    """A constant leaves the pattern as it is in exact arithmetic, and costs it its digits in bfloat16."""
    bias = torch.full((1, 1, 1, 1), offset)
    reading = ScoreRounding().measure(observations.standard(bias=bias))
    assert least <= reading.values.max() <= most
    in_half = np.array(reading.facts["float16"])
    assert (in_half == 1).all() if offset > 65504 else in_half.max() < reading.values.max()


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="bfloat16"):
        ScoreRounding(precision="int8")
