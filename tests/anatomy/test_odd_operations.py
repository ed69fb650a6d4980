"""Operations that one layer of a stack does beside its attention: found where they are, silent on designs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from attnscope import Case, diagnose, trace


class Layer(nn.Module):
    def __init__(self, act: Callable[[Tensor], Tensor] = nn.functional.gelu, factor: float = 1.0) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.act, self.factor = act, factor
        self.mlp = Branch(self.up, self.down, act, factor)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        done: Tensor = x + self.mlp(x)
        return done


class Branch(nn.Module):
    def __init__(self, up: nn.Linear, down: nn.Linear, act: Callable[[Tensor], Tensor], factor: float) -> None:
        super().__init__()
        self.up, self.down, self.act, self.factor = up, down, act, factor

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(self.act(self.up(x)))
        return y if self.factor == 1 else y * self.factor


class Stack(nn.Module):
    def __init__(self, layers: Sequence[Layer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.head(x.mean(1))
        return logits


def odd(layers: Sequence[Layer]) -> list[tuple[int, str, tuple[str, ...]]]:
    torch.manual_seed(0)
    found = trace(Stack(layers), torch.randn(2, 5, 8)).odd_operations
    return [(item.layer, item.does, item.missing) for item in found]


def test_equal_layers_have_none() -> None:
    assert odd([Layer() for _ in range(4)]) == []
    assert odd([Layer(factor=0.5) for _ in range(3)]) == []


def test_a_factor_and_an_activation_are_found_where_they_are() -> None:
    assert odd([Layer(), Layer(), Layer(factor=3.0), Layer()]) == [(2, "times 3", ())]
    assert odd([Layer(nn.functional.relu), *(Layer() for _ in range(3))]) == [(0, "relu", ("gelu",))]


def test_what_only_one_layer_lacks_is_told_too() -> None:
    layers = [Layer(), Layer(lambda x: x), Layer()]
    assert odd(layers) == [(1, "", ("gelu",))]


@pytest.mark.parametrize("factors", [(1.0, 3.0), (1.0, 3.0, 1.0, 3.0), (1.0, 2.0, 3.0)])
def test_designs_are_left_alone(factors: tuple[float, ...]) -> None:
    """Two layers, layers that alternate, and layers that all differ: none is the odd one."""
    assert odd([Layer(factor=factor) for factor in factors]) == []


def test_a_hook_that_was_left_on_a_module_is_named_at_its_block() -> None:
    torch.manual_seed(0)
    model = Stack([Layer() for _ in range(3)])
    model.layers[1].mlp.down.register_forward_hook(lambda module, args, output: output * 4)
    batches = [(torch.randn(4, 5, 8), torch.randint(0, 3, (4,))) for _ in range(2)]
    found = diagnose(Case(model, batches), effort="light").findings
    named = {(item.kind, item.layer) for item in found}
    assert ("operation_out_of_line", 1) in named
    healthy = diagnose(Case(Stack([Layer() for _ in range(3)]), batches), effort="light").findings
    assert "operation_out_of_line" not in {item.kind for item in healthy}


def test_they_go_to_plain_data_and_back() -> None:
    anatomy = trace(Stack([Layer(), Layer(nn.functional.relu), Layer()]), torch.randn(2, 5, 8))
    assert anatomy.odd_operations
    assert type(anatomy).from_dict(anatomy.to_dict()) == anatomy


class Scaled(nn.Module):
    def __init__(self, factor: float, how: str = "times") -> None:
        super().__init__()
        self.stack, self.factor, self.how = Stack([Layer()]), factor, how

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.stack(x)
        return logits * self.factor if self.how == "times" else logits / self.factor


@pytest.mark.parametrize(("factor", "how", "expected"), [(5.0, "times", 5.0), (4.0, "over", 0.25)])
def test_a_temperature_that_was_left_in_is_noted_at_the_classifier(factor: float, how: str, expected: float) -> None:
    model = Scaled(factor, how)
    found = trace(model, torch.randn(2, 5, 8)).scaled_outputs
    assert [(item.place, item.factor) for item in found] == [("stack.head", expected)]
    batches = [(torch.randn(4, 5, 8), torch.randint(0, 3, (4,))) for _ in range(2)]
    notes = [item for item in diagnose(Case(model, batches), effort="light").findings if item.kind == "logits_scaled"]
    assert [(item.block_or_site, item.severity.value) for item in notes] == [("stack.head", "note")]


def test_an_output_as_it_is_has_no_factor() -> None:
    anatomy = trace(Scaled(1.0), torch.randn(2, 5, 8))
    assert anatomy.scaled_outputs == ()
    scaled = trace(Scaled(2.0), torch.randn(2, 5, 8))
    assert type(scaled).from_dict(scaled.to_dict()) == scaled
