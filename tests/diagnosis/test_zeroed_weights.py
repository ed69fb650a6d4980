"""Rows, columns and slices kept at zero are named at their block; what starts at zero or is never used is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from attnscope.case import Case
from attnscope.examine import diagnose
from attnscope.findings import Finding, Severity
from attnscope.models.gpt import Gpt

Change = Callable[[nn.Module], None]


def model() -> Gpt:
    torch.manual_seed(0)
    return Gpt(n_tokens=20, n_positions=16, d_model=32, n_heads=4, n_layers=2)


def case(made: nn.Module, keep: Change = lambda model: None, *, steps: int = 4, lr: float = 1e-2) -> Case:
    """The model after some steps, with a change that is made again after each."""
    ids = torch.randint(0, 18, (8, 13), generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.AdamW(made.parameters(), lr=lr)
    built = Case(made, [(ids[:, :-1], ids[:, 1:])], optimizer=optimizer)
    loss = nn.CrossEntropyLoss()
    keep(made)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(made(ids[:, :-1]).flatten(0, -2), ids[:, 1:].flatten()).backward()
        optimizer.step()
        keep(made)
    return built


def found(given: Case) -> list[Finding]:
    return list(diagnose(given, select=["PRJ310"]).findings)


@torch.no_grad()
def rows(made: nn.Module) -> None:
    made.tokens.weight[3:6] = 0


@torch.no_grad()
def columns(made: nn.Module) -> None:
    made.tokens.weight[:, 2:9] = 0


@torch.no_grad()
def network(made: nn.Module) -> None:
    for linear in (made.blocks[1].mlp_in, made.blocks[1].mlp_out):
        linear.weight.zero_()
        linear.bias.zero_()


@pytest.mark.parametrize(("change", "place"), [(rows, "tokens"), (columns, "tokens")])
def test_kept_at_zero(change: Change, place: str) -> None:
    (finding,) = found(case(model(), change))
    assert (finding.kind, finding.block_or_site, finding.severity) == ("zeroed_weights", place, Severity.ERROR)
    assert finding.evidence[0].exact


def test_a_network_of_zeros() -> None:
    (finding,) = found(case(model(), network))
    assert finding.layer == 1
    assert finding.role == "mlp"


@pytest.mark.parametrize("steps", [0, 5])
def test_healthy(steps: int) -> None:
    assert not found(case(model(), steps=steps))


def test_rows_that_start_at_zero_are_no_finding() -> None:
    made = model()
    rows(made)
    assert not found(case(made, steps=0))
    assert not found(case(made, steps=5)), "training has moved them"


def test_a_row_that_is_never_used_and_a_padding_row() -> None:
    made = model()
    made.tokens = nn.Embedding(20, 32, padding_idx=4)

    @torch.no_grad()
    def unseen(model: nn.Module) -> None:
        model.tokens.weight[18:] = 0

    assert not found(case(made, unseen))


@torch.no_grad()
def scattered(made: nn.Module) -> None:
    generator = torch.Generator().manual_seed(2)
    for part in made.parameters():
        if part.ndim > 1:
            part[torch.rand(part.shape, generator=generator) < 0.8] = 0


def test_scattered_pruning_and_frozen_weights_and_no_learning_rate() -> None:
    assert not found(case(model(), scattered))
    made = model()
    made.tokens.requires_grad_(False)
    assert not found(case(made, rows))
    assert not found(case(model(), rows, lr=0.0))


def test_without_an_optimizer_the_tokens_that_occur_tell() -> None:
    trained = case(model(), rows)
    (finding,) = found(Case(trained.model, trained.batches))
    assert finding.severity is Severity.WARNING
    healthy = case(model())
    assert not found(Case(healthy.model, healthy.batches))


def test_numbers_that_are_not_finite() -> None:
    broken = case(model(), steps=3)
    with torch.no_grad():
        broken.model.tokens.weight[2] = float("nan")
    assert not found(broken)


class Frames(nn.Module):
    """A convolution over time, and a classifier; attention lies between them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(2, 12, (3, 1, 1), padding=(1, 0, 0))
        self.attention = nn.MultiheadAttention(12, 2, batch_first=True)
        self.classifier = nn.Linear(12, 3)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        hidden = self.conv(frames).flatten(2).transpose(1, 2)
        return self.classifier(self.attention(hidden, hidden, hidden)[0].mean(1))


@pytest.mark.parametrize(("name", "place"), [("classifier", "classifier"), ("conv", "conv")])
def test_classes_and_slices(name: str, place: str) -> None:
    torch.manual_seed(0)
    made = Frames()
    frames, labels = torch.randn(8, 2, 6, 2, 2), torch.arange(8) % 3
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1, momentum=0.9)
    given = Case(made, [(frames, labels)], optimizer=optimizer)
    for _ in range(4):
        optimizer.zero_grad()
        nn.functional.cross_entropy(made(frames), labels).backward()
        optimizer.step()
    assert not found(given)
    with torch.no_grad():
        if name == "classifier":
            made.classifier.weight[:1] = 0
        else:
            made.conv.weight[:, :, 0] = 0  # two numbers an output channel, but a whole slice of the kernel
    (finding,) = found(given)
    assert finding.block_or_site == place
