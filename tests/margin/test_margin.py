"""Max-margin problems: certificates, closed forms, agreement of solvers, refusals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnscope.margin import Constraints, MarginError, certify, matrix_norm
from attnscope.margin.diagonal import diagonal
from attnscope.margin.frobenius import frobenius
from attnscope.margin.nuclear import nuclear
from attnscope.margin.spectral import spectral
from attnscope.tasks.token_margin import TokenMargin, aligned_nuclear_norm

pytest.importorskip("clarabel", reason="clarabel is not installed: pip install 'attnscope[studies]'")


def constraints_of(task: TokenMargin) -> Constraints:
    data = task.draw()
    return Constraints(data.differences, data.queries)


SOLVERS = {"frobenius": frobenius, "nuclear": nuclear, "spectral": spectral, "l1": diagonal}


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 6), tokens=st.integers(2, 5))
def test_each_answer_is_certified_and_no_other_norm_beats_it(seed: int, n: int, tokens: int) -> None:
    problem = constraints_of(TokenMargin(n_samples=n, n_tokens=tokens, d=10, seed=seed))
    answers = {name: solve(problem) for name, solve in SOLVERS.items() if name != "l1"}
    for name, answer in answers.items():
        assert answer.gap <= 1e-6
        assert problem.margins(answer.weights).min() == pytest.approx(1, abs=1e-9)
        assert matrix_norm(answer.weights, name) == pytest.approx(answer.value)
        for other in answers.values():
            assert matrix_norm(other.weights, name) >= answer.value * (1 - 1e-6)


def test_one_constraint_has_a_closed_form() -> None:
    difference, query = np.array([[[3.0, 0.0, 4.0]]]), np.array([[0.0, 2.0, 0.0]])
    problem = Constraints(difference, query)
    expected = difference[0].T @ query / (25 * 4)
    for name in ("frobenius", "nuclear", "spectral"):
        answer = SOLVERS[name](problem)
        assert np.allclose(answer.weights, expected, atol=1e-7)
        assert answer.value == pytest.approx(0.1, rel=1e-7)


@pytest.mark.parametrize("seed", range(3))
def test_aligned_data_have_the_closed_form_of_the_theorem(seed: int) -> None:
    task = TokenMargin(kind="aligned", seed=seed)
    assert nuclear(constraints_of(task)).value == pytest.approx(aligned_nuclear_norm(task.draw()), rel=1e-6)


def test_both_nuclear_solvers_agree() -> None:
    problem = constraints_of(TokenMargin(n_samples=8, d=12))
    assert nuclear(problem, "scs").value == pytest.approx(nuclear(problem, "clarabel").value, rel=1e-5)


def test_a_loose_answer_shows_a_rank_that_is_not_there_and_is_refused() -> None:
    """The published rank figure counts singular values of a loosely solved problem above 1e-7."""
    problem = constraints_of(TokenMargin(n_samples=10, n_tokens=5, d=10, seed=1))
    exact = nuclear(problem)
    loose = exact.weights + 1e-4 * np.random.default_rng(0).normal(size=(10, 10))
    absolute_rank = int((np.linalg.svd(loose, compute_uv=False) > 1e-7).sum())
    assert absolute_rank == 10
    assert exact.rank() <= 6
    with pytest.raises(MarginError, match="not solved exactly"):
        certify(problem, loose, exact.dual, "nuclear")


def test_diagonal_is_no_better_than_the_full_nuclear_problem() -> None:
    problem = constraints_of(TokenMargin(d=20))
    assert diagonal(problem).value >= nuclear(problem).value


class TestBadInput:
    @pytest.mark.parametrize("name", SOLVERS)
    def test_not_separable(self, name: str) -> None:
        """Two samples that ask for opposite things."""
        difference = np.array([[[1.0, 0.0]], [[-1.0, 0.0]]])
        query = np.array([[0.0, 1.0], [0.0, 1.0]])
        if name == "l1":
            query = np.array([[1.0, 0.0], [1.0, 0.0]])
        with pytest.raises(MarginError, match=r"separable|separates"):
            SOLVERS[name](Constraints(difference, query))

    def test_duplicate_of_the_optimal_token(self) -> None:
        difference = np.array([[[0.0, 0.0], [1.0, 0.0]]])
        with pytest.raises(MarginError, match="separable"):
            frobenius(Constraints(difference, np.array([[1.0, 0.0]])))

    def test_nan(self) -> None:
        with pytest.raises(MarginError, match="finite"):
            Constraints(np.full((1, 1, 2), np.nan), np.ones((1, 2)))

    def test_empty_and_misshapen(self) -> None:
        with pytest.raises(MarginError, match="no constraints"):
            Constraints(np.zeros((1, 0, 2)), np.ones((1, 2)))
        with pytest.raises(MarginError, match=r"\[sample, token, d\]"):
            Constraints(np.zeros((1, 2)), np.ones((1, 2)))
