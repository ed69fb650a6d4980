"""What is read of a trained subject: the diagnosis, and one number per block for every ranker."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from attnscope.anatomy.blocks import SITES, Anatomy
from attnscope.bench.row import Named
from attnscope.case import Case
from attnscope.examine import diagnose, probe_of
from attnscope.findings import Diagnosis
from attnscope.lenses import Lens
from attnscope.lenses._parameters import flat
from attnscope.lenses.attention_entropy import AttentionEntropy
from attnscope.lenses.block_ablation import BlockAblation
from attnscope.lenses.coupling import Coupling
from attnscope.lenses.first_token_mass import FirstTokenMass
from attnscope.lenses.future_mass import FutureMass
from attnscope.lenses.gradient_norm import GradientNorm
from attnscope.lenses.gradient_to_weight import GradientToWeight
from attnscope.lenses.head_contribution import HeadContribution
from attnscope.lenses.head_similarity import HeadSimilarity
from attnscope.lenses.largest_score import LargestScore
from attnscope.lenses.negative_share import NegativeShare
from attnscope.lenses.padding_mass import PaddingMass
from attnscope.lenses.preconditioned_top_eigenvalue import PreconditionedTopEigenvalue
from attnscope.lenses.update_to_weight import UpdateToWeight
from attnscope.lenses.weight_norms import WeightNorms
from attnscope.probe import Probe
from attnscope.readings import Reading

SPECTRUM_STEPS = 3
BY_BLOCK: Mapping[str, Lens] = {
    "gradient_norm": GradientNorm(),
    "gradient_to_weight": GradientToWeight(),
    "update_to_weight": UpdateToWeight(),
    "weight_norm": WeightNorms(),
    "block_ablation": BlockAblation(),
    "negative_share": NegativeShare(n_probes=2, n_steps=SPECTRUM_STEPS),
    "preconditioned_top_eigenvalue": PreconditionedTopEigenvalue(max_steps=3),
}
BY_LAYER: Mapping[str, Lens] = {
    "entropy": AttentionEntropy(),
    "padding_mass": PaddingMass(),
    "future_mass": FutureMass(),
    "largest_score": LargestScore(),
    "head_similarity": HeadSimilarity(),
    "first_token_mass": FirstTokenMass(),
}
BY_HEAD: Mapping[str, Lens] = {"entropy": AttentionEntropy(), "contribution": HeadContribution()}
COUPLING = Coupling(n_probes=2)


@dataclass
class Measured:
    """The parts of a row that come from looking at the model."""

    anatomy: Anatomy
    diagnosis: Diagnosis
    block_values: dict[str, tuple[float, ...]] = field(default_factory=dict)
    layer_values: dict[str, dict[str, float]] = field(default_factory=dict)
    head_values: dict[str, dict[str, tuple[float, ...]]] = field(default_factory=dict)
    pair_values: dict[str, float] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    gradient_seconds: float = 0.0

    @property
    def findings(self) -> tuple[Named, ...]:
        """What the diagnosis found, in short."""
        return tuple(
            Named(
                item.code, item.kind, item.block_or_site, item.severity.value,
                item.confidence if item.stated is None else item.stated,  # what is calibrated is what rules state
                str(item.source or ""), any(evidence.exact for evidence in item.evidence),
            )
            for item in self.diagnosis.findings
        )

    @property
    def sites(self) -> tuple[str, ...]:
        """Everything without parameters that a finding may name."""
        own = [
            f"{attention.name}.{site}"
            for attention in self.anatomy.attentions
            for site in SITES
        ]
        return (*own, "positions", "model", "data")


def measured(case: Case) -> Measured:
    """Diagnoses a case at standard effort, and reads every block with every lens that a ranker may ask for."""
    diagnosis = diagnose(case, effort="standard")
    anatomy = diagnosis.anatomy
    probe = probe_of(case, anatomy)
    found = Measured(anatomy, diagnosis)
    found.gradient_seconds = _seconds_of_a_gradient(probe)
    names = [block.name for block in anatomy.blocks]
    for column, lens in BY_BLOCK.items():
        reading = _timed(found, column, lens, probe)
        if reading is not None:
            found.block_values[column] = _by_name(reading, names)
            _rest_of_spectrum(found, column, reading, names)
            if column == "block_ablation":
                change = reading.facts.get("loss_change", {})
                found.block_values["ablation_loss"] = tuple(change.get(name, float("nan")) for name in names)
    _attention_values(found, probe)
    pairs = _timed(found, "coupling", COUPLING, probe)
    if pairs is not None:
        found.pair_values = _pairs(pairs)
    _own_statistics(found, probe, case)
    return found


def _timed(found: Measured, column: str, lens: Lens, probe: Probe) -> Reading | None:
    """The reading, or None when it cannot be made; its cost either way."""
    if lens.applies_to(probe.anatomy):
        return None
    start = time.perf_counter()
    try:
        reading = lens.measure(probe)
    except Exception:  # a reading that a broken model does not allow is missing, which rankers must live with
        return None
    finally:
        found.cost[column] = time.perf_counter() - start
    return reading if reading.values.size else None


def _seconds_of_a_gradient(probe: Probe) -> float:
    """The median of three, so that one hiccup does not make everything look cheap."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        try:
            probe.gradients_of(probe.batch)
        except Exception:  # a case without a gradient has no such unit
            return float("nan")
        times.append(time.perf_counter() - start)
    return sorted(times)[1]


def _by_name(reading: Reading, names: list[str]) -> tuple[float, ...]:
    held = dict(zip(map(str, reading.labels("block")), map(float, reading.values), strict=True))
    return tuple(held.get(name, float("nan")) for name in names)


def _rest_of_spectrum(found: Measured, column: str, reading: Reading, names: list[str]) -> None:
    """Ends and trace of each block's spectrum come with the negative share, from the same Lanczos steps.

    The trace is the mean of the probes' first products alone, so that is what it costs.
    """
    if column != "negative_share":
        return
    labels = list(map(str, reading.labels("block")))
    spectrum = (("largest", "block_top_eigenvalue"), ("smallest", "block_bottom_eigenvalue"), ("trace", "block_trace"))
    for fact, name in spectrum:
        held = dict(zip(labels, map(float, reading.facts[fact]), strict=True))
        found.block_values[name] = tuple(held.get(block, float("nan")) for block in names)
    norms = found.block_values.get("weight_norm", (float("nan"),) * len(names))
    found.block_values["relative_curvature"] = tuple(
        norm**2 * trace for norm, trace in zip(norms, found.block_values["block_trace"], strict=True)
    )
    found.cost["block_trace"] = found.cost[column] / SPECTRUM_STEPS
    found.cost["relative_curvature"] = 0.0


def _attention_values(found: Measured, probe: Probe) -> None:
    names = [attention.name for attention in probe.anatomy.attentions]
    for column, lens in BY_LAYER.items():
        reading = _timed(found, column, lens, probe)
        if reading is None or "layer" not in reading.dims:
            continue
        values = torch.as_tensor(reading.values).flatten(1) if reading.values.ndim > 1 else None
        means = values.nanmean(1) if values is not None else torch.as_tensor(reading.values)
        found.layer_values[column] = dict(zip(names, map(float, means), strict=False))
    for column, lens in BY_HEAD.items():
        reading = _timed(found, f"head_{column}", lens, probe)
        if reading is not None and reading.dims == ("layer", "head"):
            found.head_values[column] = {
                name: tuple(map(float, row)) for name, row in zip(names, reading.values, strict=False)
            }


def _pairs(reading: Reading) -> dict[str, float]:
    """Couplings of pairs of blocks of the same attention, and of the same role in neighbouring ones."""
    labels = list(map(str, reading.labels("block")))
    found = {}
    for row, first in enumerate(labels):
        for column in range(row + 1, len(labels)):
            second = labels[column]
            same_layer = first.split(".")[0] == second.split(".")[0]
            same_role = first.split(".")[-1] == second.split(".")[-1]
            if same_layer or same_role:
                found[f"{first} {second}"] = float(reading.values[row, column])
    return found


def _own_statistics(found: Measured, probe: Probe, case: Case) -> None:
    """Variance of the gradient over batches, distance from the start, and the size of activations."""
    blocks = probe.anatomy.blocks
    start = time.perf_counter()
    try:
        per_batch = [_vectors(probe, probe.gradients_of(batch)) for batch in probe.batches]
    except Exception:  # without gradients there is no variance
        per_batch = []
    if len(per_batch) > 1:
        found.block_values["gradient_variance"] = tuple(
            float(torch.stack([vectors[block.name] for vectors in per_batch]).var(0).sum()) for block in blocks
        )
        found.cost["gradient_variance"] = time.perf_counter() - start
    if isinstance(case.start, Mapping):
        now = {name: value.detach() for name, value in probe.model.named_parameters()}
        before = {name: case.start.get(name, value) for name, value in now.items()}
        pairs = [(flat(now, block), flat(before, block)) for block in blocks]
        found.block_values["weight_distance"] = tuple(
            float((new - old).norm() / (old.norm() + 1e-12)) for new, old in pairs
        )
        found.block_values["turn"] = tuple(
            1 - float(nn.functional.cosine_similarity(new, old, dim=0)) for new, old in pairs
        )
    start = time.perf_counter()
    found.block_values["activation_norm"] = _activation_norms(probe)
    found.cost["activation_norm"] = time.perf_counter() - start


def _vectors(probe: Probe, gradients: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
    parameters = dict(probe.model.named_parameters())
    filled = {
        name: torch.zeros_like(parameters[name]) if value is None else value for name, value in gradients.items()
    }
    return {block.name: flat(filled, block) for block in probe.anatomy.blocks}


def _activation_norms(probe: Probe) -> tuple[float, ...]:
    """Root mean square of the output of the module that owns each block's first parameter."""
    seen: dict[str, float] = {}

    def note(name: str) -> Any:
        def after(_: nn.Module, __: Any, output: Any) -> None:
            value = output[0] if isinstance(output, tuple) and output else output
            if isinstance(value, Tensor) and value.is_floating_point() and value.numel():
                seen.setdefault(name, float(value.float().square().mean().sqrt()))

        return after

    owners = {block.name: block.slices[0].parameter.rpartition(".")[0] for block in probe.anatomy.blocks}
    modules = dict(probe.model.named_modules())
    hooks = [modules[name].register_forward_hook(note(name)) for name in set(owners.values()) if name in modules]
    try:
        with probe.evaluating() as model, torch.no_grad():
            probe.run(model, probe.batch)
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(seen.get(owners[block.name], float("nan")) for block in probe.anatomy.blocks)
