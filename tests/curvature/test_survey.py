"""The budget driver: interruptible, resumable to the same numbers, and spending where errors are widest."""

import numpy as np
import pytest
import torch

from attnscope.curvature.deflation import adaptive_coupling
from attnscope.curvature.hessian import Hessian
from attnscope.curvature.survey import Survey
from attnscope.errors import CaseError
from reference.dense_curvature import DenseOperator, dense_hessian


@pytest.fixture
def dense(tiny):
    matrix, index = dense_hessian(tiny.model, [tiny.batch], tiny.loss)
    return DenseOperator.cut((matrix + matrix.T) / 2, tiny.blocks, index)


def same(one, other):
    return (
        np.array_equal(one.norms, other.norms, equal_nan=True)
        and np.array_equal(one.norm_stderr, other.norm_stderr, equal_nan=True)
        and one.traces == other.traces
    )


def test_a_fixed_number_of_products_is_the_adaptive_coupling(dense):
    expected = adaptive_coupling(dense, n_probes=5, n_pilots=4, seed=3)
    total, dense.n_products = dense.n_products, 0
    survey = Survey(dense, n_probes=5, n_pilots=4, seed=3)
    found = survey.run(max_products=total)
    assert dense.n_products == survey.products == total
    assert min(survey.sums.drawn.values()) == 2
    assert all(len(basis) for basis in survey.sums.bases.values())
    assert same(found, expected)


@pytest.mark.parametrize("stop", range(1, 42, 5))
def test_interrupted_saved_and_resumed_at_any_product(dense, stop, tmp_path):
    whole = Survey(dense, seed=1)
    expected = whole.run(max_products=40)

    def interrupt(progress):
        if progress.products == stop:
            raise KeyboardInterrupt

    survey = Survey(dense, seed=1)
    if stop <= 40:
        with pytest.raises(KeyboardInterrupt):
            survey.run(max_products=40, progress=interrupt)
        assert survey.products == stop
    else:
        survey.run(max_products=40)
    survey.save(tmp_path / "survey.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["survey.safetensors"]
    resumed = Survey.resume(tmp_path / "survey.safetensors", dense)
    found = resumed.run(max_products=40 - resumed.products)
    assert resumed.products == 40
    for name in dense.names:
        assert found.traces[name].value == pytest.approx(expected.traces[name].value, rel=1e-9)
    assert found.norms == pytest.approx(expected.norms, rel=1e-9)


def test_stops_at_the_precision(dense):
    survey = Survey(dense)
    found = survey.run(precision=0.05)
    assert survey.error() <= 0.05
    relative = found.norm_stderr / found.norms
    assert np.quantile(relative, 0.95) <= 0.05 + 1e-12
    truth = np.array([[float(dense.block(a, b).norm()) for b in dense.names] for a in dense.names])
    assert np.median(np.abs(found.norms / truth - 1)) < 0.05
    before = survey.products
    survey.run(precision=0.05)
    assert survey.products == before


def test_spends_where_errors_are_widest():
    """Two blocks are of rank one, where a probe tells little; the others are flat, where it tells nearly all."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.zeros(240, 240, dtype=torch.float64)
    for block in range(4):
        place = slice(60 * block, 60 * block + 60)
        matrix[place, place] = torch.eye(60)
    for block in (0, 1):
        vector = torch.randn(60, dtype=torch.float64, generator=generator)
        place = slice(60 * block, 60 * block + 60)
        matrix[place, place] = torch.outer(vector, vector)
    operator = DenseOperator(matrix, {f"b{i}": 60 for i in range(4)})
    survey = Survey(operator, n_probes=2, n_pilots=0)
    survey.run(max_products=60)
    drawn = survey.sums.drawn
    assert min(drawn["b0"], drawn["b1"]) > 3 * max(drawn["b2"], drawn["b3"])


def test_time_limit_and_progress(dense):
    seen = []
    survey = Survey(dense)
    survey.run(max_products=50, progress=seen.append)
    assert [item.products for item in seen] == list(range(1, 51))
    assert np.isinf(seen[5].error)
    assert np.isfinite(seen[-1].error)
    assert seen[-1].seconds_left == 0
    assert seen[10].seconds_left > seen[40].seconds_left * 0.5
    survey = Survey(dense)
    survey.run(max_seconds=0.0)
    assert survey.products == 0
    survey.run(max_seconds=1e-6)
    assert survey.products <= 1
    with pytest.raises(ValueError, match="say when to stop"):
        survey.run()


def test_a_result_before_anything_is_known_does_not_pretend(dense):
    found = Survey(dense).result()
    assert all(np.isnan(trace.value) for trace in found.traces.values())
    assert np.isnan(found.ratios).all()


def test_real_products_in_pieces(tiny):
    operator = Hessian(tiny.model, [tiny.batch], tiny.loss, tiny.blocks, dtype=torch.float64, max_examples=4)
    whole = Hessian(tiny.model, [tiny.batch], tiny.loss, tiny.blocks, dtype=torch.float64)
    one, other = (Survey(item).run(max_products=30) for item in (operator, whole))
    assert one.norms == pytest.approx(other.norms, rel=1e-5)


def test_files_that_are_no_survey(dense, tmp_path):
    path = tmp_path / "file"
    with pytest.raises(CaseError, match="not a survey"):
        Survey.resume(path, dense)
    path.write_bytes(b"nonsense" * 20)
    with pytest.raises(CaseError, match="not a survey"):
        Survey.resume(path, dense)
    survey = Survey(dense)
    survey.run(max_products=8)
    survey.save(path)
    with pytest.raises(CaseError, match="other blocks"):
        Survey.resume(path, DenseOperator(torch.eye(4), {"a": 4}))
