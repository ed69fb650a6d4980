"""Batch normalisations whose statistics stand still, and an epsilon out of line."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from attnscope.case import Case
from attnscope.examine import diagnose
from attnscope.faults.norm_epsilon import NormEpsilon
from attnscope.faults.norm_statistics_frozen import NormStatisticsFrozen
from attnscope.findings import Finding, Severity
from attnscope.models.conv3d_attention import Conv3dAttention
from attnscope.models.distilbert import Distilbert

KINDS = ("norm_statistics_frozen", "norm_epsilon")


def videos() -> list[tuple[Tensor, Tensor]]:
    drawn = torch.Generator().manual_seed(1)
    return [(3 + 8 * torch.randn(16, 1, 4, 8, 8, generator=drawn), torch.arange(16) % 4) for _ in range(3)]


def case_of() -> Case:
    torch.manual_seed(0)
    model = Conv3dAttention(n_classes=4, n_frames=4, d_model=8)
    return Case(model, videos(), optimizer=torch.optim.Adam(model.parameters(), lr=1e-3))


def trained(case: Case, steps: int = 40) -> Case:
    case.model.train()
    for step in range(steps):
        inputs, labels = list(case.batches)[step % 3]
        case.optimizer.zero_grad()  # type: ignore[union-attr]
        nn.functional.cross_entropy(case.model(inputs), labels).backward()
        case.optimizer.step()  # type: ignore[union-attr]
    return case


def found(case: Case) -> list[Finding]:
    return list(diagnose(case, select=KINDS).findings)


def norms(model: nn.Module) -> list[nn.BatchNorm3d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm3d)]


@pytest.mark.parametrize(
    ("strength", "severity"), [(0.95, Severity.WARNING), (0.99, Severity.WARNING), (1.0, Severity.ERROR)]
)
@pytest.mark.parametrize("number", [0, 2])
def test_statistics_that_stand_still(strength: float, severity: Severity, number: int) -> None:
    fault = NormStatisticsFrozen(strength=strength, number=number)
    clean = case_of()
    (place,) = fault.label(clean).places
    (finding,) = found(trained(fault.inject(clean)))
    assert (finding.kind, finding.block_or_site, finding.severity) == ("norm_statistics_frozen", place, severity)
    assert finding.evidence[0].exact


@pytest.mark.parametrize("steps", [0, 2, 40])
def test_healthy_from_the_first_step_on(steps: int) -> None:
    assert found(trained(case_of(), steps)) == []


def change(what: Callable[[nn.BatchNorm3d], None]) -> Case:
    case = case_of()
    for norm in norms(case.model):
        what(norm)
    return case


def test_a_small_momentum_in_all_norms_is_at_most_a_note() -> None:
    def slow(norm: nn.BatchNorm3d) -> None:
        norm.momentum = 0.001

    assert found(trained(change(slow), 40)) == []
    assert {item.severity for item in found(trained(change(slow), 120))} == {Severity.NOTE}


def test_norms_that_are_frozen_on_purpose() -> None:
    case = trained(case_of())
    for norm in norms(case.model):
        norm.momentum = 0.0
        norm.requires_grad_(False)
    assert found(trained(case, 5)) == []


def test_norms_without_running_statistics_and_with_cumulated_ones() -> None:
    def own(norm: nn.BatchNorm3d) -> None:
        norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None

    def cumulated(norm: nn.BatchNorm3d) -> None:
        norm.momentum = None

    assert found(trained(change(own), 3)) == []
    assert found(trained(change(cumulated), 5)) == []


def test_an_input_that_is_normal_already_takes_no_harm() -> None:
    case = trained(NormStatisticsFrozen(strength=1.0, number=0).inject(case_of()), 3)
    first = next(module for module in case.model.modules() if isinstance(module, nn.Conv3d))
    with torch.no_grad():
        first.weight.zero_()
        first.weight[:, :, 1, 1, 1] = 1.0
        first.bias.zero_()  # type: ignore[union-attr]
    case.batches = [((inputs - 3) / 8, labels) for inputs, labels in videos()]
    assert found(case) == []


def test_numbers_that_are_not_finite_do_not_end_it() -> None:
    case = trained(NormStatisticsFrozen(strength=0.99, number=0).inject(case_of()), 3)
    case.batches = [(inputs * float("nan"), labels) for inputs, labels in videos()]
    assert found(case) == []


def reviews(n_layers: int = 3) -> Case:
    ids = torch.randint(1, 50, (8, 10), generator=torch.Generator().manual_seed(0))
    model = Distilbert(n_layers=n_layers, n_classes=2, n_tokens=50, n_positions=16, seed=0).build()
    return Case(model, [{"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.arange(8) % 2}])


@pytest.mark.parametrize(("strength", "severity"), [(1e-4, Severity.NOTE), (1.0, Severity.WARNING)])
def test_an_epsilon_out_of_line(strength: float, severity: Severity) -> None:
    fault = NormEpsilon(layer=1, strength=strength)
    case = reviews()
    with torch.no_grad():  # states of variance one, as training makes them
        case.model.distilbert.embeddings.LayerNorm.weight.fill_(1.0)  # type: ignore[union-attr]
    places = fault.label(case).places
    (finding,) = found(fault.inject(case))
    assert (finding.kind, finding.severity) == ("norm_epsilon", severity)
    assert finding.block_or_site in places


def test_norms_at_different_places_may_differ() -> None:
    case = reviews()
    case.model.distilbert.embeddings.LayerNorm.eps = 1e-3  # type: ignore[union-attr]
    for layer in case.model.distilbert.transformer.layer:  # type: ignore[union-attr]
        layer.output_layer_norm.eps = 1e-6
    assert found(case) == []
    assert found(reviews(1)) == []
