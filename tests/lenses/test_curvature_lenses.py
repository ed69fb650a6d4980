"""Curvature lenses against the dense Hessian of a small attention model, and against what training does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attnscope import catalogue
from attnscope.anatomy.blocks import Anatomy, Block, ParameterSlice, Role
from attnscope.curvature.cohen2022adaptive import steps_of
from attnscope.probe import Probe

WIDTH = 4


class Small(nn.Module):
    """One attention of one head and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.output = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.classifier = nn.Linear(WIDTH, 3)

    def forward(self, states: Tensor) -> Tensor:
        scores = self.query(states) @ self.key(states).transpose(-1, -2) * WIDTH**-0.5
        context = scores.softmax(-1) @ self.value(states)
        return self.classifier(torch.tanh(states + self.output(context)).mean(1))


ROLES = {
    "query": ("L0.Q", Role.QUERY),
    "key": ("L0.K", Role.KEY),
    "value": ("L0.V", Role.VALUE),
    "output": ("L0.O", Role.OUTPUT),
    "classifier": ("classifier", Role.CLASSIFIER),
}


def anatomy(model: nn.Module) -> Anatomy:
    named = dict(model.named_parameters())
    return Anatomy(
        model_class="Small",
        blocks=tuple(
            Block(
                name,
                role,
                tuple(
                    ParameterSlice(f"{module}.{what}", tuple(named[f"{module}.{what}"].shape))
                    for what in ("weight", "bias")
                ),
                layer=None if role is Role.CLASSIFIER else 0,
            )
            for module, (name, role) in ROLES.items()
        ),
    )


def made(model: nn.Module | None = None, optimizer: torch.optim.Optimizer | None = None) -> Probe:
    torch.manual_seed(0)
    fresh = Small().double()
    model = fresh if model is None else model
    batch = (torch.randn(8, 5, WIDTH, dtype=torch.float64), torch.randint(0, 3, (8,)))
    return Probe(model=model, batches=(batch,), anatomy=anatomy(model), optimizer=optimizer)


def dense(probe: Probe) -> dict[str, np.ndarray]:
    """The whole Hessian, cut into (block, block) parts by name."""
    named = dict(probe.model.named_parameters())
    names = [piece.parameter for block in probe.anatomy.blocks for piece in block.slices]
    sizes = [named[name].numel() for name in names]

    def loss(vector: Tensor) -> Tensor:
        parts = vector.split(sizes)
        state = {name: part.view(named[name].shape) for name, part in zip(names, parts, strict=True)}
        output = torch.func.functional_call(probe.model, state, (probe.batch[0],))
        return nn.functional.cross_entropy(output, probe.batch[1])

    vector = torch.cat([named[name].detach().flatten() for name in names])
    whole = torch.func.hessian(loss)(vector).numpy()
    edges = np.cumsum([0, *(block.numel for block in probe.anatomy.blocks)])
    spans = {block.name: slice(edges[i], edges[i + 1]) for i, block in enumerate(probe.anatomy.blocks)}
    found = {f"{a} {b}": whole[spans[a], spans[b]] for a in spans for b in spans}
    found["all"] = whole
    return found


def lens(name: str, **settings: object):
    return catalogue.load("lenses", name)(**{"dtype": "float64", **settings})


def test_ends_of_the_spectrum_agree_with_the_dense_hessian() -> None:
    probe = made()
    true = dense(probe)
    top = lens("block_top_eigenvalue").measure(probe)
    share = lens("negative_share", n_steps=20).measure(probe)
    for index, name in enumerate(top.labels("block")):
        values = np.linalg.eigvalsh(true[f"{name} {name}"])
        assert top.values[index] == pytest.approx(values[-1], rel=1e-2)
        assert top.facts["smallest"][index] == pytest.approx(values[0], rel=1e-2, abs=1e-6)
        # 20 parameters and 2 * 20 products: exact.
        expected = np.maximum(-values, 0).sum() / np.abs(values).sum()
        assert share.values[index] == pytest.approx(expected, rel=1e-9, abs=1e-12)
        assert share.stderr is not None
        assert share.stderr[index] == 0


def test_traces_agree_with_the_dense_hessian_within_their_errors() -> None:
    probe = made()
    true = dense(probe)
    sampled = lens("block_trace", n_probes=15).measure(probe)
    exact = lens("block_trace", n_probes=25).measure(probe)
    relative = lens("relative_curvature", n_probes=25).measure(probe)
    named = dict(probe.model.named_parameters())
    for index, block in enumerate(probe.anatomy.blocks):
        trace = np.trace(true[f"{block.name} {block.name}"])
        assert exact.values[index] == pytest.approx(trace, rel=1e-9, abs=1e-12)
        assert exact.stderr is not None
        assert exact.stderr[index] == 0
        assert sampled.stderr is not None
        assert abs(sampled.values[index] - trace) <= 4 * sampled.stderr[index] + 1e-12
        norm = sum(float(named[piece.parameter].detach().square().sum()) for piece in block.slices)
        assert relative.values[index] == pytest.approx(norm * trace / block.numel, rel=1e-9, abs=1e-12)


def test_coupling_agrees_with_the_dense_hessian() -> None:
    probe = made()
    true = dense(probe)
    reading = lens("coupling", n_probes=80).measure(probe)
    assert reading.labels("block") == ("L0.Q", "L0.K", "L0.V", "L0.O")
    for a in reading.labels("block"):
        for b in reading.labels("block"):
            own = np.linalg.norm(true[f"{a} {a}"]) * np.linalg.norm(true[f"{b} {b}"])
            expected = np.linalg.norm(true[f"{a} {b}"]) / own**0.5
            assert reading.at(block=a, other_block=b) == pytest.approx(expected, rel=0.3)


def test_a_flat_block_is_named_and_not_divided_by() -> None:
    model = Small().double()
    nn.init.zeros_(model.query.weight)
    nn.init.zeros_(model.query.bias)
    reading = lens("coupling").measure(made(model))
    assert reading.ok
    assert reading.facts["flat"] == ["L0.K"]
    assert np.isnan(reading.at(block="L0.Q", other_block="L0.K"))


def scaled(probe: Probe, factor: float) -> Probe:
    """The same function: queries times c, keys over c, values times c, output over c."""
    model = Small().double()
    model.load_state_dict(probe.model.state_dict())
    with torch.no_grad():
        for module, by in ((model.query, factor), (model.key, 1 / factor), (model.value, factor)):
            module.weight *= by
            module.bias *= by
        model.output.weight /= factor
    return made(model)


@pytest.mark.parametrize("factor", [2.0, 8.0, 64.0])
def test_scale_free_forms_do_not_move_when_the_function_does_not(factor: float) -> None:
    before = made()
    after = scaled(before, factor)
    assert after.loss_value == pytest.approx(before.loss_value, rel=1e-12)
    # The bias of the output projection is not scaled with its weight, so that block is not measured in
    # other units as a whole.
    kept = slice(0, 3)
    tolerance = {"negative_share": 1e-6, "relative_curvature": 1e-6, "coupling": 1e-6}
    for name, rel in tolerance.items():
        rows = (kept, kept) if name == "coupling" else kept
        one, other = (lens(name).measure(probe).values[rows] for probe in (before, after))
        assert other == pytest.approx(one, rel=rel, abs=1e-10), name
    raw = [lens("block_top_eigenvalue").measure(probe).values for probe in (before, after)]
    assert raw[1][0] == pytest.approx(raw[0][0] / factor**2, rel=1e-2)


OPTIMIZERS: dict[str, tuple[Callable[..., torch.optim.Optimizer], float]] = {
    "sgd": (lambda parameters: torch.optim.SGD(parameters, lr=0.1), 2.0),
    "momentum": (lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9), 3.8),
    "nesterov": (lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True), 3.8 / 2.8),
    "dampened": (lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, dampening=0.9), 38.0),
    "penalised": (lambda parameters: torch.optim.SGD(parameters, lr=0.1, weight_decay=0.3), 2.0),
    "adam": (lambda parameters: torch.optim.Adam(parameters, lr=1e-3), 38.0),
    "adamw": (lambda parameters: torch.optim.AdamW(parameters, lr=1e-3, betas=(0.8, 0.99), amsgrad=True), 18.0),
}


def trained(name: str, steps: int = 3) -> Probe:
    torch.manual_seed(1)
    model = Small().double()
    optimizer = OPTIMIZERS[name][0](model.parameters())
    probe = made(model, optimizer)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(probe.batch[0]), probe.batch[1]).backward()
        optimizer.step()
    return made(model, optimizer)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_limit_of_a_step_rule_is_where_it_starts_to_diverge(name: str) -> None:
    """The optimiser itself, on a parabola just less and just more curved than its limit."""
    limit = OPTIMIZERS[name][1]
    curvature = 1e-60  # second moments vanish beside an eps of 1, as a linearisation at one moment has them
    grown = []
    for share in (0.97, 1.03):
        point = nn.Parameter(torch.ones(1, dtype=torch.float64))
        optimizer = OPTIMIZERS[name][0]([point])
        for group in optimizer.param_groups:
            group.update(lr=share * limit / curvature, weight_decay=0.0)
            group.update(eps=1.0) if "eps" in group else None
        sizes = []
        for _ in range(150):
            optimizer.zero_grad()
            (curvature * point.square() / 2).sum().backward()
            optimizer.step()
            sizes.append(float(point.detach().abs()))
        grown.append(max(sizes[140:]) / max(sizes[40:50]))
    assert grown[0] < 0.1
    assert grown[1] > 10


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_preconditioned_eigenvalue_agrees_with_the_dense_one(name: str) -> None:
    probe = trained(name)
    assert probe.optimizer is not None
    blocks = {block.name: block for block in probe.anatomy.blocks}
    steps = [rate / OPTIMIZERS[name][1] for rate in steps_of(probe.optimizer, probe.model, blocks).rates.values()]
    penalty = 0.3 if name == "penalised" else 0.0
    reading = lens("preconditioned_top_eigenvalue", max_steps=40).measure(probe)
    true = {key: part + penalty * np.eye(*part.shape) for key, part in dense(probe).items()}
    root = torch.cat(steps).sqrt().numpy()
    whole = np.linalg.eigvalsh(root[:, None] * true["all"] * root[None, :])[-1]
    assert reading.facts["model"] == pytest.approx(whole, rel=1e-2)
    assert reading.facts["limit"] == pytest.approx([OPTIMIZERS[name][1]] * 5)
    assert reading.facts["model"] >= reading.values.max() * (1 - 1e-2)
    start = 0
    for index, block in enumerate(probe.anatomy.blocks):
        own = root[start : start + block.numel]
        start += block.numel
        top = np.linalg.eigvalsh(own[:, None] * true[f"{block.name} {block.name}"] * own[None, :])[-1]
        assert reading.values[index] == pytest.approx(top, rel=3e-2, abs=1e-12)  # Lanczos stops at 1 %


def test_an_optimiser_that_cannot_be_read_is_said_so() -> None:
    model = Small().double()
    fresh = made(model, torch.optim.Adam(model.parameters()))
    assert "no step" in lens("preconditioned_top_eigenvalue").measure(fresh).note
    other = made(model, torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1))
    assert "no block that the optimiser moves" in lens("preconditioned_top_eigenvalue").measure(other).note
    unknown = made(model, torch.optim.LBFGS(model.parameters()))
    assert "LBFGS" in lens("preconditioned_top_eigenvalue").measure(unknown).note
    assert lens("preconditioned_top_eigenvalue").measure(made(model)).status == "not_applicable"


def test_a_block_without_a_learning_rate_is_left_out() -> None:
    model = Small().double()
    rest = [parameter for name, parameter in model.named_parameters() if not name.startswith("key")]
    reading = lens("preconditioned_top_eigenvalue").measure(made(model, torch.optim.SGD(rest, lr=0.1)))
    assert reading.facts["left_out"] == ["L0.K"]


def test_the_density_has_the_moments_of_the_spectrum() -> None:
    probe = made()
    values = np.linalg.eigvalsh(dense(probe)["all"])
    reading = lens("spectral_density", n_probes=6, n_steps=15, width=0.005, points=2001).measure(probe)
    grid = np.array(reading.labels("eigenvalue"))
    step = grid[1] - grid[0]
    assert float(reading.values.sum() * step) == pytest.approx(1, abs=1e-3)
    assert float((reading.values * grid).sum() * step) == pytest.approx(values.mean(), abs=0.15 * values.std())
    assert reading.facts["largest"] == pytest.approx(values[-1], rel=1e-5)
    assert reading.facts["smallest"] == pytest.approx(values[0], rel=1e-3)
    assert (reading.values >= 0).all()


NAMES = [
    "block_top_eigenvalue",
    "block_trace",
    "coupling",
    "negative_share",
    "relative_curvature",
    "spectral_density",
]


@pytest.mark.parametrize("name", NAMES)
def test_no_loss_is_a_reason_and_nan_is_a_status(name: str) -> None:
    probe = made()
    unlabelled = Probe(model=probe.model, batches=(probe.batch[0],), anatomy=probe.anatomy)
    reading = lens(name).measure(unlabelled)
    assert (reading.status, "no loss" in reading.note) == ("not_applicable", True)
    with torch.no_grad():
        probe.model.value.weight[0, 0] = torch.nan
    reading = lens(name).measure(made(probe.model))
    assert reading.status == "not_finite"
    assert "nan" in reading.note


@pytest.mark.parametrize("name", ["block_top_eigenvalue", "negative_share", "spectral_density"])
def test_what_is_too_large_is_left_out_and_said(name: str) -> None:
    reading = lens(name, max_parameters=5).measure(made())
    assert (reading.status, "parameters" in reading.note) == ("not_applicable", True)
    if name != "spectral_density":
        reading = lens(name, max_parameters=16).measure(made())
        assert reading.labels("block") == ("classifier",)
        assert reading.facts["left_out"] == ["L0.Q", "L0.K", "L0.V", "L0.O"]


def test_lenses_share_one_graph() -> None:
    probe = made()
    for name in NAMES:
        lens(name).measure(probe)
    assert [key for key in probe.shared if key.startswith("hessian")] == ["hessian float64"]
    assert probe.shared["hessian float64"].cost.graphs == 1
