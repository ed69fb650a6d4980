"""Parameter groups that hold a block twice or decay it alone, and a layer that drops its pattern twice."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from attnscope.case import Case
from attnscope.examine import diagnose
from attnscope.faults.dropout_mismatch import DropoutMismatch
from attnscope.faults.mlp_decay import MlpDecay
from attnscope.faults.norm_decay import NormDecay
from attnscope.faults.updated_twice import UpdatedTwice
from attnscope.findings import Finding, Severity
from attnscope.models.distilbert import Distilbert

KINDS = ("updated_twice", "weight_decay_out_of_line", "dropout_mismatch")


def batches() -> list[dict[str, Tensor]]:
    drawn = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 50, (8, 10), generator=drawn)
    return [{"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.arange(8) % 2}]


def model_of(n_layers: int = 3) -> nn.Module:
    return Distilbert(n_layers=n_layers, n_classes=2, n_tokens=50, n_positions=16, seed=0).build()


def case_of(model: nn.Module | None = None, optimizer: torch.optim.Optimizer | None = None) -> Case:
    model = model_of() if model is None else model
    return Case(model, batches(), optimizer=optimizer or torch.optim.AdamW(model.parameters(), lr=1e-3))


def trained(case: Case, steps: int = 3) -> Case:
    case.model.train()
    for _ in range(steps):
        case.optimizer.zero_grad()  # type: ignore[union-attr]
        case.model(**case.batches[0]).loss.backward()  # type: ignore[index]
        case.optimizer.step()  # type: ignore[union-attr]
    return case


def found(case: Case, kinds: Sequence[str] = KINDS) -> list[Finding]:
    return list(diagnose(case, select=kinds).findings)


def grouped(model: nn.Module, decay_of: dict[str, float]) -> torch.optim.Optimizer:
    """A group per parameter; the first word in its name that `decay_of` knows tells its decay."""
    groups = []
    for name, value in model.named_parameters():
        decay = next((number for word, number in decay_of.items() if word in name), 0.01)
        groups.append({"params": [value], "weight_decay": decay})
    return torch.optim.AdamW(groups, lr=1e-3)


def test_a_parameter_in_two_groups() -> None:
    case = trained(UpdatedTwice(layer=1, strength=1.0).inject(case_of()))
    (finding,) = found(case)
    assert (finding.kind, finding.block_or_site, finding.severity) == ("updated_twice", "L1.Q", Severity.ERROR)
    assert [item.value for item in finding.evidence] == [2.0, 6.0]
    assert finding.evidence[1].expected == 3.0


def test_a_parameter_in_two_groups_is_seen_before_the_first_step_and_without_a_count() -> None:
    assert [item.block_or_site for item in found(UpdatedTwice(layer=2, strength=0.3).inject(case_of()))] == ["L2.Q"]
    model = model_of()
    case = case_of(model, torch.optim.SGD(model.parameters(), lr=1e-3))
    (finding,) = found(trained(UpdatedTwice(layer=0, strength=1.0).inject(case)))
    assert finding.block_or_site == "L0.Q"
    assert len(finding.evidence) == 1


@pytest.mark.parametrize("fault", [MlpDecay, NormDecay])
@pytest.mark.parametrize(("strength", "severity"), [(0.01, Severity.NOTE), (1.0, Severity.WARNING)])
def test_a_decay_of_its_own(fault: type[MlpDecay] | type[NormDecay], strength: float, severity: Severity) -> None:
    planted = fault(layer=1, strength=strength)
    clean = case_of()
    places = planted.label(clean).places
    (finding,) = found(planted.inject(clean))
    assert (finding.kind, finding.severity) == ("weight_decay_out_of_line", severity)
    assert finding.block_or_site in places


@pytest.mark.parametrize(
    "decay_of",
    [
        {"bias": 0.0, "norm": 0.0},  # the usual practice
        {"norm": 0.0},
        {"layer.0": 0.1, "layer.1": 0.03, "layer.2": 0.01},  # from layer to layer
        {"layer.2": 0.1},  # a whole layer
        {"embeddings": 0.0, "classifier": 1.0},
    ],
)
def test_decays_that_are_a_plan(decay_of: dict[str, float]) -> None:
    model = model_of()
    assert found(case_of(model, grouped(model, decay_of))) == []


def test_of_two_layers_the_one_that_differs_from_the_rest_is_odd() -> None:
    model = model_of(2)
    (finding,) = found(case_of(model, grouped(model, {"layer.0.ffn": 1.0})))
    assert finding.block_or_site.endswith("layer.0.ffn")


def test_blocks_that_do_not_train_are_not_compared() -> None:
    model = model_of()
    model.get_submodule("distilbert.transformer.layer.0").requires_grad_(False)
    chosen = [value for value in model.parameters() if value.requires_grad]
    assert found(case_of(model, torch.optim.AdamW(chosen, lr=1e-3))) == []


def test_two_dropouts_behind_one_softmax() -> None:
    (finding,) = found(DropoutMismatch(layer=1, strength=1.0).inject(case_of()))
    assert (finding.kind, finding.block_or_site, finding.severity) == (
        "dropout_mismatch", "L1.dropout", Severity.WARNING,
    )
    assert finding.evidence[0].value == pytest.approx(1 - 0.9 * 0.7)
    assert finding.evidence[0].expected == pytest.approx(0.1)


def test_another_rate_is_a_note_and_a_rate_that_grows_is_a_plan() -> None:
    def rates(*numbers: float) -> list[tuple[str, Severity]]:
        model = model_of()
        for number, layer in zip(numbers, model.distilbert.transformer.layer, strict=True):  # type: ignore
            layer.attention.dropout.p = number
            layer.attention.dropout_prob = number
        return [(item.block_or_site, item.severity) for item in found(case_of(model))]

    assert rates(0.1, 0.1, 0.1) == []
    assert rates(0.1, 0.2, 0.3) == []
    assert rates(0.0, 0.0, 0.0) == []
    assert rates(0.1, 0.5, 0.1) == [("L1.dropout", Severity.NOTE)]


def test_healthy_and_without_an_optimiser() -> None:
    assert found(trained(case_of())) == []
    assert found(Case(model_of(), batches())) == []
