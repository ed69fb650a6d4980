"""The log-domain flow against autograd, against itself on other clocks, and against its conserved quantities."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attnscope.errors import CaseError
from attnscope.models.softmax_attention import SoftmaxAttention
from attnscope.models.softmax_attention_flow import (
    NOT_REACHED,
    REACHED,
    STATIONARY,
    Flow,
    arc_length,
    dual_mass_flow,
    merged,
    normalised_descent,
    time_flow,
)
from attnscope.studies._implicit_measures import start
from attnscope.tasks.token_margin import TokenMargin, TokenMarginData


def flow_of(data: TokenMarginData) -> Flow:
    return Flow(data.differences, data.queries, data.score_gap)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), form=st.sampled_from(["factored", "merged", "diagonal"]), scale=st.floats(0.01, 2))
def test_descent_is_the_gradient_of_the_model(seed: int, form: str, scale: float) -> None:
    """The naive twin: the model's own loss on the data's head and labels, by autograd."""
    data = TokenMargin(n_samples=3, n_tokens=4, d=14, score_gap=2.0, seed=seed).draw()
    tokens = torch.tensor(np.concatenate([data.optimal[:, None], data.others], axis=1))
    model = SoftmaxAttention(14, form, seed=seed, scale=scale).double()
    output = model(tokens, torch.tensor(data.queries), torch.tensor(data.head)) * torch.tensor(data.labels)
    (-(-output).exp().mean()).backward()
    gradient, log_factor, _ = flow_of(data).descent(model.weights().detach().numpy())
    # -dL/dW = gap/n exp(-gamma_nopt ...) sum r A: the factor is gap / n with gamma_opt = gap, gamma_nopt = 0,
    # and rates were written relative to exp(-gap).
    whole = gradient * np.exp(log_factor) * 2.0 * np.exp(-2.0) / 3
    if form == "merged":
        assert np.allclose(model.key.grad.numpy(), whole, rtol=1e-8, atol=1e-12)
    elif form == "factored":
        assert np.allclose(model.key.grad.numpy(), whole @ model.query.detach().numpy(), rtol=1e-8, atol=1e-12)
        assert np.allclose(model.query.grad.numpy(), whole.T @ model.key.detach().numpy(), rtol=1e-8, atol=1e-12)
    else:
        assert np.allclose(model.key.grad.numpy(), np.diag(whole) * model.query.detach().numpy(), rtol=1e-8, atol=1e-12)


def test_clocks_agree_where_they_overlap() -> None:
    flow = flow_of(TokenMargin(seed=3).draw())
    factors = start(3, 10)
    by_length = arc_length(flow, factors, [10.0, 50.0])
    by_time = time_flow(flow, factors, [10.0, 50.0])
    by_steps = normalised_descent(flow, factors, [10.0, 50.0], lr=0.001)
    assert by_length.status == by_time.status == by_steps.status == REACHED
    for a, b, c in zip(by_length.weights, by_time.weights, by_steps.weights, strict=True):
        assert np.linalg.norm(a - b) / np.linalg.norm(a) < 1e-5
        assert np.linalg.norm(a - c) / np.linalg.norm(a) < 1e-2
    # log_factor leaves out gap / n; LSODA's time is that of the loss scaled to order one at the start.
    offset = flow.descent(merged(factors))[1]
    assert np.array(by_length.log_time) == pytest.approx(np.array(by_time.log_time) - offset, abs=1e-3)
    assert by_length.drift < 1e-8
    assert by_time.drift < 1e-8


def test_dual_mass_clock_agrees_with_arc_length_on_the_diagonal() -> None:
    flow = flow_of(TokenMargin(d=12, score_gap=12.0, seed=1).draw())
    by_mass = dual_mass_flow(flow, 0.5, [10.0, 40.0])
    by_length = arc_length(flow, (np.full(12, np.sqrt(2) * 0.5), np.zeros(12)), [10.0, 40.0])
    for a, b in zip(by_mass.weights, by_length.weights, strict=True):
        assert np.linalg.norm(a - b) / np.linalg.norm(b) < 1e-4


def test_nothing_underflows_at_any_margin() -> None:
    flow = flow_of(TokenMargin(seed=0).draw())
    weights = normalised_descent(flow, start(0, 10), [30.0]).weights[0]
    for factor in (1e3, 1e6, 1e9):
        gradient, log_factor, margin = flow.descent(weights * factor)
        assert np.isfinite(gradient).all()
        assert np.linalg.norm(gradient) > 0.1
        assert log_factor == pytest.approx(-margin, rel=1e-6)


def test_margin_not_reached_is_a_status() -> None:
    flow = flow_of(TokenMargin(seed=0).draw())
    found = normalised_descent(flow, start(0, 10), [1e9], most_steps=50)
    assert found.status == NOT_REACHED
    assert found.weights == []
    assert merged(found.factors).shape == (10, 10)


CLOCKS = {
    "descent": partial(normalised_descent, most_steps=300),
    "length": partial(arc_length, longest=30.0),
    "time": partial(time_flow, longest=1e6),
}
START = start(0, 10)


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize(
    ("factors", "margins", "message"),
    [
        ((np.zeros((10, 0)), np.zeros((10, 0))), [10.0], "d_e must be at least 1"),
        ((START[0] * np.nan, START[1]), [10.0], "NaN"),
        ((START[0][:5], START[1]), [10.0], "factors must be"),
        ((START[0], START[1][:, :3]), [10.0], "factors must be"),
        ((), [10.0], "factors must be"),
        (START, [], "margins must be positive"),
        (START, [10.0, np.nan], "margins must be positive"),
        (START, [-1.0], "margins must be positive"),
        (START, [np.inf], "margins must be positive"),
    ],
)
def test_a_flow_that_cannot_be_is_refused(clock: str, factors: Any, margins: list[float], message: str) -> None:
    with pytest.raises(CaseError, match=message):
        CLOCKS[clock](flow_of(TokenMargin(seed=0).draw()), factors, margins)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("clock", CLOCKS)
def test_a_start_without_gradient_is_a_status(clock: str) -> None:
    found = CLOCKS[clock](flow_of(TokenMargin(seed=0).draw()), (np.zeros((10, 10)), np.zeros((10, 10))), [10.0])
    assert found.status == STATIONARY
    assert found.weights == []


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("clock", CLOCKS)
def test_data_that_nothing_separates_never_reach_a_margin(clock: str) -> None:
    """Two samples with one query that ask for opposite tokens."""
    opposite = Flow(np.array([[[1.0, 0.0]], [[-1.0, 0.0]]]), np.array([[0.0, 1.0], [0.0, 1.0]]), 16.0)
    found = CLOCKS[clock](opposite, start(0, 2), [1.0])
    assert found.status == NOT_REACHED
    assert (found.margins, found.weights) == ([], [])
    assert all(np.isfinite(part).all() for part in found.factors)


@pytest.mark.filterwarnings("error")
def test_the_dual_mass_clock_says_when_it_does_not_arrive() -> None:
    flow = flow_of(TokenMargin(d=12, seed=0).draw())
    found = dual_mass_flow(flow, 1.0, [10.0, 1e300])
    assert (found.status, found.margins) == (NOT_REACHED, [10.0])
    assert dual_mass_flow(flow, 1.0, [1e300]).margins == []
    for scale in (0.0, np.nan):
        with pytest.raises(CaseError, match="start_scale"):
            dual_mass_flow(flow, scale, [10.0])
    with pytest.raises(CaseError, match="margins must be positive"):
        dual_mass_flow(flow, 1.0, [np.nan])


def test_a_time_beyond_floats_is_a_status() -> None:
    found = time_flow(flow_of(TokenMargin(seed=0).draw()), START, [100.0, 2000.0], rtol=1e-4)
    assert found.status == NOT_REACHED
    assert found.margins == [100.0]


def test_bad_input_is_refused() -> None:
    data = TokenMargin().draw()
    with pytest.raises(CaseError, match="NaN"):
        Flow(data.differences * np.nan, data.queries, 1.0)
    with pytest.raises(CaseError, match="d_e must be at least 1"):
        SoftmaxAttention(4, d_e=0)
    with pytest.raises(CaseError, match="factored, merged, diagonal"):
        SoftmaxAttention(4, "other")
    with pytest.raises(CaseError, match="odd number of tokens"):
        TokenMargin(kind="aligned", n_tokens=4).draw()
