"""The dispatch record: every operation whole, with its tensors, the user's line and the module."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnscope.anatomy.record import Record, record_forward


def call(model: nn.Module, batch: Any) -> Any:
    return model(batch)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.dropout(self.linear(x))
        return F.scaled_dot_product_attention(y, y, y)  # the kernel


def names(record: Record) -> list[str]:
    return [operation.name for operation in record.operations]


@pytest.mark.parametrize("train", [False, True])
def test_composite_operations_arrive_whole_in_both_modes(train: bool) -> None:
    model = Plain().train(train)
    record = record_forward(model, torch.randn(2, 3, 4), call)
    assert names(record) == ["linear", "dropout", "scaled_dot_product_attention"]
    dropout = record.operations[1]
    assert (dropout.argument(1, "p"), dropout.argument(2, "train")) == (0.5, train)


def test_line_and_module_are_the_users() -> None:
    record = record_forward(Plain(), torch.randn(2, 3, 4), call)
    lines, start = inspect.getsourcelines(Plain)
    kernel = record.operations[-1]
    assert kernel.source is not None
    assert kernel.source.line == start + next(i for i, line in enumerate(lines) if "# the kernel" in line)
    assert kernel.source.file == __file__
    assert kernel.source.text.endswith("# the kernel")
    assert [operation.module for operation in record.operations] == ["linear", "dropout", ""]


def test_values_know_what_they_were_made_from() -> None:
    model = Plain()
    record = record_forward(model, torch.randn(2, 3, 4), call)
    (output,) = record.outputs
    assert set(record.parameters_in(output.params)) == {"linear.weight", "linear.bias"}
    assert output.inputs == 1
    assert output.producer is record.operations[-1]


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        y.mul_(2.0)
        return y + 1


def test_a_tensor_changed_in_place_keeps_its_old_numbers() -> None:
    torch.manual_seed(0)
    model, x = InPlace(), torch.randn(2, 4)
    record = record_forward(model, x, call)
    linear, mul, add = record.operations
    with torch.no_grad():
        expected = model.linear(x)
    assert torch.equal(linear.out.tensor, expected)
    assert torch.equal(mul.out.tensor, 2 * expected)
    assert add.inputs[0] is mul.out


class Buffered(nn.Module):
    """Writes rows into a buffer through views."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.zeros(2, 2, 4)
        out[0] = self.a(x)
        out[1] = self.b(x)
        return out * 1.0


def test_writes_through_views_reach_the_whole() -> None:
    record = record_forward(Buffered(), torch.randn(2, 4), call)
    written = [operation for operation in record.operations if operation.name == "written"]
    assert len(written) >= 1
    assert set(record.parameters_in(record.outputs[0].params)) == {"a.weight", "a.bias", "b.weight", "b.bias"}


class Raises(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise KeyError("inside the model")


def test_everything_is_put_back_after_an_exception() -> None:
    original, fast = nn.Module.__call__, torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(KeyError):
        record_forward(Raises(), torch.randn(2), call)
    assert nn.Module.__call__ is original
    assert torch.backends.mha.get_fastpath_enabled() is fast
    assert torch.is_grad_enabled()
    y = torch.randn(2, requires_grad=True) * 2
    assert y.requires_grad
    assert y.grad_fn is not None


def test_numbers_are_those_of_the_plain_model() -> None:
    model, x = Plain().eval(), torch.randn(2, 3, 4)
    for grad in (False, True):
        record = record_forward(model, x, call, grad=grad)
        assert torch.equal(record.result, model(x))
        assert record.result.requires_grad is grad


def test_gradients_flow_through_a_record_with_grad() -> None:
    model, x = InPlace(), torch.randn(2, 4)
    record = record_forward(model, x, call, grad=True)
    expected = torch.autograd.grad(model(x).square().sum(), model.linear.weight)[0]
    found = torch.autograd.grad(record.result.square().sum(), model.linear.weight)[0]
    torch.testing.assert_close(found, expected)


def test_an_operation_can_be_replaced() -> None:
    model, x = Plain().eval(), torch.randn(2, 3, 4)
    first = record_forward(model, x, call).operations[0].index
    record = record_forward(model, x, call, replace={first: lambda output, args: torch.zeros_like(output)})
    assert torch.equal(record.result, torch.zeros(2, 3, 4))
