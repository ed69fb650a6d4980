"""A portrait says what a dense Hessian says, stops where it must, and goes on where it stopped."""

from __future__ import annotations

import copy
import json
import os
import signal

import numpy as np
import pytest
import torch

from attnscope import Case
from attnscope.anatomy.trace import trace
from attnscope.curvature.levels import blocks_at
from attnscope.errors import CaseError
from attnscope.portrait.portrait import Portrait, Request, portray
from reference.curvature_cases import TinyAttention, tiny_batch
from reference.dense_curvature import dense_hessian


def make_case(steps: int = 40, optimizer: str = "Adam") -> Case:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = TinyAttention()
    kinds = {"Adam": lambda p: torch.optim.Adam(p, lr=0.02), "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
             "RMSprop": lambda p: torch.optim.RMSprop(p)}
    made = kinds[optimizer](model.parameters()) if optimizer else None
    for _ in range(steps):
        made.zero_grad()
        tokens, targets = tiny_batch()
        torch.nn.functional.cross_entropy(model(tokens), targets).backward()
        made.step()
    return Case(model, [tiny_batch()], optimizer=made, name="tiny")


def full(**more) -> Request:
    return Request(**{"budget": 1e6, "precision": 0.05, "double": True, **more})


def dense(case: Case, level: str = "projection"):
    loss = lambda model, batch: torch.nn.functional.cross_entropy(model(batch[0]), batch[1])  # noqa: E731
    matrix, index = dense_hessian(copy.deepcopy(case.model), list(case.batches), loss)
    anatomy = trace(case.model, case.batches[0])
    places = {}
    for block in blocks_at(anatomy, case.model, level):
        rows = []
        for part in block.slices:
            numbers = index[part.parameter].reshape(part.shape)
            if part.dim is not None:
                numbers = torch.cat([numbers.narrow(part.dim, a, b - a) for a, b in part.ranges], part.dim)
            rows.append(numbers.reshape(-1))
        places[block.name] = torch.cat(rows)
    return matrix, places


@pytest.mark.parametrize("level", ["projection", "head", "layer"])
def test_every_reading_against_a_dense_hessian(level):
    case = make_case()
    found = portray(case, full(level=level)).readings
    matrix, places = dense(case, level)
    names = list(found["top_eigenvalue"].labels("block"))
    assert names == list(places)
    scale = float(torch.linalg.matrix_norm(matrix))
    for row, name in enumerate(names):
        own = matrix[places[name]][:, places[name]]
        values = torch.linalg.eigvalsh(own)
        size = max(abs(float(values[0])), abs(float(values[-1])))
        assert found["top_eigenvalue"].values[row] == pytest.approx(float(values[-1]), abs=0.02 * size + 1e-9 * scale)
        assert found["bottom_eigenvalue"].values[row] == pytest.approx(float(values[0]), abs=0.02 * size + 1e-9 * scale)
    norms = np.array([
        [float(torch.linalg.matrix_norm(matrix[places[a]][:, places[b]])) for b in names] for a in names
    ])
    pairs = found["pair_norm"]
    told = norms > 1e-9 * scale
    # Two samples of what the bases leave over tell their spread badly, so a small absolute error is allowed too.
    inside = np.abs(pairs.values - norms) <= np.maximum(3 * pairs.stderr, 0.02 * norms)
    assert inside[told].mean() > 0.9
    assert np.median(np.abs(pairs.values / np.where(told, norms, 1) - 1)[told]) < 0.05
    traces = np.array([float(matrix[places[name]][:, places[name]].trace()) for name in names])
    error = np.abs(found["trace"].values - traces) / np.maximum(found["trace"].stderr, 1e-6 * scale)
    assert (error < 4).all()


def test_the_whole_and_the_mass_of_its_extreme_directions():
    case = make_case()
    found = portray(case, full()).readings
    matrix, places = dense(case)
    whole = torch.cat(list(places.values()))
    values, vectors = torch.linalg.eigh(matrix[whole][:, whole])
    density = found["spectral_density"]
    assert max(density.facts["ritz"]) == pytest.approx(float(values[-1]), rel=1e-3)
    assert min(density.facts["ritz"]) == pytest.approx(float(values[0]), rel=1e-3)
    grid = np.array(density.labels("eigenvalue"), float)
    assert np.trapezoid(density.values, grid) == pytest.approx(1.0, abs=0.02)
    mass = found["eigenvector_mass"].values
    assert mass.sum(1) == pytest.approx([1, 1])
    start = 0
    for row, places_of in enumerate(places.values()):
        for end, column in ((0, -1), (1, 0)):
            true = float(vectors[start:start + len(places_of), column].square().sum())
            assert mass[end, row] == pytest.approx(true, abs=0.01)
        start += len(places_of)
    by_head = found["eigenvector_mass_by_head"].values
    attention = [row for row, name in enumerate(places) if name.startswith("L0.")]
    # The output projection's bias belongs to no head, so heads hold a little less.
    assert (by_head.sum((1, 2)) <= mass[:, attention].sum(1) + 1e-9).all()
    assert by_head.sum() > 0


def test_heads_and_blocks_tell_the_same_mass():
    case = make_case()
    coarse, fine = portray(case, full()).readings, portray(case, full(level="head")).readings
    one, other = coarse["eigenvector_mass_by_head"], fine["eigenvector_mass_by_head"]
    # Cut by head, the output projection's bias is missing, so only the heads' proportions are the same.
    assert one.values[0] / one.values[0].sum() == pytest.approx(other.values[0] / other.values[0].sum(), abs=0.02)


def test_layers_merge_projections_and_patterns_choose():
    case = make_case()
    anatomy = trace(case.model, case.batches[0])
    projections, layers = blocks_at(anatomy, case.model), blocks_at(anatomy, case.model, "layer")
    assert sum(block.numel for block in projections) == sum(block.numel for block in layers)
    assert [block.name for block in blocks_at(anatomy, case.model, only=("L0.[QK]",))] == ["L0.Q", "L0.K"]
    heads = blocks_at(anatomy, case.model, "head", ("L0H*.Q",))
    assert [block.name for block in heads] == ["L0H0.Q", "L0H1.Q"]
    with pytest.raises(CaseError, match=r"no block at level head is named L7\*; there are"):
        blocks_at(anatomy, case.model, "head", ("L7*",))
    with pytest.raises(ValueError, match="level must be one of"):
        blocks_at(anatomy, case.model, "neuron")


def test_only_what_is_asked_for():
    found = portray(make_case(), full(measures=("spectrum",), only=("L0.*",)))
    assert "coupling" not in found.readings
    assert "spectral_density" not in found.readings
    assert set(found.facts["left_out"]) == {"embedding", "norm", "mlp", "classifier"}


def test_json_of_all_that_is_known():
    found = portray(make_case(), full())
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert data["readings"]["coupling"]["dims"] == ["block", "other_block"]
    assert data["blocks"]["L0.Q"]["layer"] == 0


def test_a_small_budget_ends_early_and_says_so():
    found = portray(make_case(), Request(budget=1, precision=0.01))
    assert any("budget ended before" in note or "not known to 1 %" in note for note in found.facts["notes"])
    assert "coupling" not in found.readings
    assert not found.interrupted


class Interrupt:
    """Presses Ctrl-C when something is being done for the n-th time."""

    def __init__(self, what: str, count: int) -> None:
        self.what, self.left = what, count

    def __call__(self, done: int, total: int, what: str) -> None:
        if self.what in what:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(("what", "count"), [("eigenvalues", 2), ("eigenvalues", 30), ("coupling", 4), ("coupling", 12),
                                             ("density", 3), ("density", 25)])
def test_ctrl_c_keeps_what_is_known(what, count):
    before = signal.getsignal(signal.SIGINT)
    found = portray(make_case(), full(), tell=Interrupt(what, count))
    assert found.interrupted
    assert signal.getsignal(signal.SIGINT) is before
    whole = portray(make_case(), full())
    assert not whole.interrupted
    assert found.readings.keys() < whole.readings.keys() or found.readings.keys() == whole.readings.keys() - {
        "stability"
    }
    if what == "density":
        assert np.allclose(found.readings["top_eigenvalue"].values, whole.readings["top_eigenvalue"].values)


def test_a_second_ctrl_c_ends_at_once():
    def twice(done: int, total: int, what: str) -> None:
        if "eigenvalues" in what:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        portray(make_case(), full(), tell=lambda *said: (twice(*said), twice(*said)))


def test_resumes_where_it_was_interrupted(tmp_path):
    kept = tmp_path / "survey.safetensors"
    first = portray(make_case(), full(), resume=kept, tell=Interrupt("coupling", 9))
    assert first.interrupted
    assert kept.exists()
    second = portray(make_case(), full(), resume=kept)
    assert second.facts["resumed"]
    assert second.facts["gradients"] > first.facts["gradients"]
    whole = portray(make_case(), full())
    assert second.readings["pair_norm"].values == pytest.approx(whole.readings["pair_norm"].values, rel=1e-6)


def test_another_moment_does_not_resume(tmp_path):
    kept = tmp_path / "survey.safetensors"
    portray(make_case(), full(measures=("coupling",)), resume=kept)
    with pytest.raises(CaseError, match=r"was saved at a loss of .* the loss is now"):
        portray(make_case(steps=41), full(measures=("coupling",)), resume=kept)
    with pytest.raises(CaseError, match="other blocks"):
        portray(make_case(), full(level="head"), resume=kept)
    kept.write_text("not a survey")
    with pytest.raises(CaseError, match="is not a survey"):
        portray(make_case(), full(), resume=kept)


def test_what_the_optimiser_sees():
    matrix, places = dense(make_case())
    sgd = portray(make_case(optimizer="SGD"), full(measures=("spectrum",)))
    matrix, places = dense(make_case(optimizer="SGD"))
    whole = torch.cat(list(places.values()))
    top = float(torch.linalg.eigvalsh(matrix[whole][:, whole])[-1])
    assert float(sgd.readings["stability"].values) == pytest.approx(0.1 * top / 2, rel=0.01)
    other = portray(make_case(optimizer="RMSprop"), full(measures=("spectrum",)))
    assert "stability" not in other.readings
    assert any("RMSprop" in note for note in other.facts["notes"])


def test_over_training_ends_where_training_ends_and_leaves_the_model_alone():
    case = make_case(steps=2)
    before = copy.deepcopy(case.model.state_dict())
    found = portray(case, full(measures=("spectrum",), training_steps=20)).readings
    assert all(torch.equal(before[name], value) for name, value in case.model.state_dict().items())
    loss = found["loss_over_training"]
    assert loss.labels("step")[0] == 0
    assert loss.labels("step")[-1] == 20
    # Dropout is 0 here, so twenty steps of the copy are twenty steps of the model.
    later = portray(make_case(steps=22), full(measures=("spectrum",)))
    assert loss.values[-1] == pytest.approx(later.facts["loss"], rel=1e-4)
    stability = found["stability_over_training"].values[-1]
    assert stability == pytest.approx(float(later.readings["stability"].values), rel=0.03)


def test_over_training_needs_an_optimiser():
    with pytest.raises(CaseError, match=r"needs Case\(optimizer=...\)"):
        portray(make_case(steps=0, optimizer=""), full(measures=("spectrum",), training_steps=3))


def test_nothing_is_disturbed():
    case = make_case()
    case.model.train()
    state = copy.deepcopy(case.model.state_dict())
    random = torch.get_rng_state()
    portray(case, full(training_steps=3))
    assert case.model.training
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(state[name], value) for name, value in case.model.state_dict().items())
    assert all(parameter.requires_grad for parameter in case.model.parameters())


@pytest.mark.parametrize("wrong", [{"measures": ("torsion",)}, {"measures": ()}, {"budget": 0}, {"precision": -1}])
def test_requests_that_make_no_sense(wrong):
    with pytest.raises(ValueError, match="must be"):
        Request(**wrong)


def test_portraits_are_plain_data():
    assert Portrait("a", "projection", {}, {}).to_dict()["readings"] == {}
