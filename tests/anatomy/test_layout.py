"""Index replay tells where every element came from: laws over random chains of layout operations."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from attnscope.anatomy.layout import Layouts
from attnscope.anatomy.record import record_forward


class Chain(nn.Module):
    """Moves the elements of a linear map's output by a recipe."""

    def __init__(self, recipe: list[tuple[str, int]]) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 12)
        self.recipe = recipe

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        for name, number in self.recipe:
            y = move(y, name, number)
        return y


def move(y: Tensor, name: str, number: int) -> Tensor:
    """One step that rearranges, repeats, drops or joins elements."""
    axis = number % y.dim()
    if name == "split" and y.shape[axis] % 2 == 0:
        return y.unflatten(axis, (2, -1))
    if name == "flatten" and y.dim() > 1:
        return y.flatten(0, 1)
    if name == "transpose" and y.dim() > 1:
        return y.transpose(axis, (axis + 1) % y.dim())
    if name == "reshape":
        return y.reshape(-1, y.shape[0])
    if name == "slice" and y.shape[axis] > 2:
        return y.narrow(axis, 1, y.shape[axis] - 1)
    if name == "chunk" and y.shape[axis] > 1:
        return y.chunk(2, dim=axis)[number % 2]
    if name == "stack" and y.dim() < 6:
        return torch.stack([y, y.flip(0)], dim=axis)
    if name == "repeat" and y.numel() < 500:
        return y.repeat_interleave(2, dim=axis)
    if name == "select" and y.dim() > 1:
        return y.select(axis, 0)
    if name == "index":
        return y[torch.randperm(y.shape[0], generator=torch.Generator().manual_seed(number))]
    if name == "expand" and y.dim() < 6:
        return y.unsqueeze(0).expand(2, *y.shape)
    if name == "contiguous":
        return y.mT.contiguous() if y.dim() > 1 else y.contiguous()
    return y


STEPS = ("split", "flatten", "transpose", "reshape", "slice", "chunk", "stack", "repeat", "select", "index", "expand",
         "contiguous")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 5)), max_size=8))
def test_replay_gives_the_place_of_every_element(recipe: list[tuple[str, int]]) -> None:
    torch.manual_seed(0)
    model = Chain(recipe)
    record = record_forward(model, torch.randn(2, 3, 4), lambda model, batch: model(batch))
    origin, output = record.operations[0].out, record.outputs[0]
    index = Layouts().replay(output, origin)
    assert index is not None
    assert index.shape == output.tensor.shape
    assert torch.equal(origin.tensor.reshape(-1)[index], output.tensor)


class Buffered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        out = torch.zeros(3, 2, 5)
        for column in range(3):
            out[column, :, 1:3] = y[:, 2 * column: 2 * column + 2]
        return out.transpose(0, 1)


def test_replay_through_writes_into_a_buffer() -> None:
    record = record_forward(Buffered(), torch.randn(2, 4), lambda model, batch: model(batch))
    origin, output = record.operations[0].out, record.outputs[0]
    index = Layouts().replay(output, origin)
    assert index is not None
    known = index >= 0
    assert torch.equal(origin.tensor.reshape(-1)[index.clamp(min=0)][known], output.tensor[known])
    assert bool((output.tensor[~known] == 0).all())
    assert int(known.sum()) == origin.numel


def test_equal_chains_are_replayed_once() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(4, 6)

        def forward(self, x: Tensor) -> list[Tensor]:
            return [part(x).view(2, 3, 2, 3).transpose(1, 2) for part in (self.a, self.b)]

    record = record_forward(Two(), torch.randn(2, 3, 4), lambda model, batch: model(batch))
    origins = [operation.out for operation in record.operations if operation.name == "linear"]
    layouts = Layouts()
    numbers = {layouts.identical(*pair) for pair in zip(record.outputs, origins, strict=True)}
    assert len(numbers) == 1
    assert layouts.identical(record.outputs[0], origins[1]) is None


def test_an_unrelated_value_has_no_place() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> list[Tensor]:
            return [x.sum(0), x.t()]

    record = record_forward(Two(), torch.randn(2, 3), lambda model, batch: model(batch))
    assert Layouts().replay(record.outputs[0], record.inputs[0]) is None
    assert Layouts().replay(record.outputs[1], record.inputs[0]) is not None
