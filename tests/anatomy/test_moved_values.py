"""Values that are moved along the sequence without their keys: seen by the trace, named by the rule."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from attnscope import Case, diagnose, trace

Move = Callable[[Tensor], Tensor]


class Attend(nn.Module):
    """One head; `values` and `both` move positions (axis 1)."""

    def __init__(self, values: Move = lambda v: v, both: Move = lambda h: h) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))
        self.values, self.both = values, both
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.both(x)
        query, key, value = self.q(x), self.k(h), self.values(self.v(h))
        pattern = (query @ key.transpose(1, 2) / 8**0.5).softmax(-1)
        logits: Tensor = self.head((x + self.o(pattern @ value)).mean(1))
        return logits


MOVES: dict[str, Move] = {
    "roll": lambda v: v.roll(1, dims=1),
    "flip": lambda v: v.flip(1),
    "index_select": lambda v: v.index_select(1, torch.tensor([4, 3, 2, 0, 1])),
}


def moved(model: nn.Module) -> str:
    step = trace(model, torch.randn(2, 5, 8)).attentions[0].moved_step
    return "" if step is None else step.op


@pytest.mark.parametrize("name", MOVES)
def test_values_that_move_alone_are_seen(name: str) -> None:
    assert moved(Attend(values=MOVES[name])) == name


@pytest.mark.parametrize("name", MOVES)
def test_keys_and_values_that_move_together_are_a_design(name: str) -> None:
    assert moved(Attend(both=MOVES[name])) == ""


def test_plain_attention_moves_nothing() -> None:
    assert moved(Attend()) == ""
    assert moved(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)) == ""


def test_it_is_named_at_the_values_with_the_line() -> None:
    torch.manual_seed(0)
    batches = [(torch.randn(4, 5, 8), torch.randint(0, 3, (4,))) for _ in range(2)]
    found = [
        item for item in diagnose(Case(Attend(MOVES["roll"]), batches), effort="light").findings
        if item.kind == "values_misplaced"
    ]
    assert [(item.block_or_site, item.severity.value) for item in found] == [("L0.V", "warning")]
    assert found[0].source is not None
    assert found[0].source.file == __file__
    healthy = diagnose(Case(Attend(), batches), effort="light").findings
    assert "values_misplaced" not in {item.kind for item in healthy}


def test_the_step_goes_to_plain_data_and_back() -> None:
    anatomy = trace(Attend(MOVES["flip"]), torch.randn(2, 5, 8))
    assert type(anatomy).from_dict(anatomy.to_dict()) == anatomy
