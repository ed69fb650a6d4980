"""The data are an instance of the paper's model: the head gives the scores, and the assumptions hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnscope.errors import CaseError
from attnscope.tasks.token_margin import KINDS, TokenMargin


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), kind=st.sampled_from(KINDS), gap=st.floats(0.5, 20))
def test_the_head_gives_equal_scores_with_the_gap(seed: int, kind: str, gap: float) -> None:
    data = TokenMargin(kind=kind, seed=seed, score_gap=gap).draw()
    best = data.labels * (data.optimal @ data.head)
    rest = data.labels[:, None] * (data.others @ data.head)
    assert np.allclose(best, data.optimal_score, rtol=1e-9)
    assert np.allclose(rest, data.optimal_score - gap, rtol=1e-7, atol=1e-9 * gap)


@pytest.mark.parametrize("seed", range(5))
def test_aligned_data_satisfy_assumption_4(seed: int) -> None:
    data = TokenMargin(kind="aligned", seed=seed).draw()
    gram = data.optimal @ data.optimal.T
    assert np.allclose(gram, np.diag(np.diag(gram)), atol=1e-12)
    for optimal, others, query in zip(data.optimal, data.others, data.queries, strict=True):
        assert abs(optimal @ query) == pytest.approx(np.linalg.norm(optimal) * np.linalg.norm(query))
        for one, other in zip(others[::2], others[1::2], strict=True):
            assert one @ optimal == pytest.approx(other @ optimal)
            assert np.allclose(one + other, 2 * (one @ optimal) / (optimal @ optimal) * optimal)


def test_the_initial_loss_condition_is_the_one_at_zero_weights() -> None:
    assert TokenMargin(score_gap=16.0).draw().initial_loss_condition
    assert not TokenMargin(score_gap=4.0).draw().initial_loss_condition


@pytest.mark.parametrize(
    ("settings_of", "message"),
    [
        ({"kind": "aligned", "n_tokens": 4}, "odd number of tokens"),
        ({"kind": "aligned", "n_samples": 11}, "at most d samples"),
        ({"n_samples": 0}, "a sample, two tokens"),
        ({"n_tokens": 1}, "a sample, two tokens"),
        ({"d": 1}, "two dimensions"),
        ({"score_gap": float("nan")}, "positive number"),
        ({"score_gap": 0.0}, "positive number"),
        ({"kind": "other"}, "general, aligned"),
    ],
)
def test_data_that_cannot_exist_are_refused(settings_of: dict[str, object], message: str) -> None:
    with pytest.raises(CaseError, match=message):
        TokenMargin(**settings_of).draw()  # type: ignore[arg-type]
