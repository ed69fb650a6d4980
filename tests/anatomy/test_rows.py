"""Rows are followed back to the batch: through networks, layouts and attentions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from attnscope.anatomy.examples import ExampleAxes
from attnscope.anatomy.record import Record, Value, record_forward
from attnscope.anatomy.rows import Provenance


def run(model: nn.Module, batch: Any) -> Record:
    return record_forward(model, batch, lambda model, batch: model(*(batch if isinstance(batch, tuple) else (batch,))))


def rows_of(value: Value) -> Tensor:
    rows = Provenance().rows(value)
    assert rows is not None
    return rows.index.expand(value.shape[: rows.index.dim()] if rows.index.dim() == len(value.shape) else value.shape)


class Encoder(nn.Module):
    """Tokens through an embedding, a residual block, a transposition and a fold."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.linear = nn.Embedding(30, 8), nn.LayerNorm(8), nn.Linear(8, 8)
        self.gru = nn.GRU(8, 5, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        x = x + torch.relu(self.linear(self.norm(x)))
        x, _ = self.gru(x)
        return x.transpose(0, 1).reshape(-1, 5)


def test_rows_through_a_network_and_its_layout() -> None:
    tokens = torch.arange(6).view(2, 3)
    record = run(Encoder(), tokens)
    index = rows_of(record.outputs[0])[:, 0]
    assert index.tolist() == [0, 3, 1, 4, 2, 5]  # position by position, example by example


def test_features_have_no_rows() -> None:
    record = run(Encoder(), torch.zeros(2, 3, dtype=torch.long))
    rows = Provenance().rows(record.operations[1].out)  # the norm
    assert rows is not None
    assert tuple(rows.index.shape) == (2, 3, 1)


def test_rows_through_an_attention_are_those_of_the_queries() -> None:
    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.linear(x)
            return (x @ x.mT).softmax(-1) @ x

    record = run(Attend(), torch.randn(2, 3, 4))
    rows = Provenance().rows(record.outputs[0])
    assert rows is not None
    position = rows.index // 4 % 3
    assert torch.equal(position.expand(2, 3, 1)[0, :, 0], torch.arange(3))


def test_learned_rows_come_from_nowhere() -> None:
    class Prefixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.linear = nn.Parameter(torch.randn(1, 1, 4)), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.first.expand(2, 1, 4), self.linear(x)], 1)

    record = run(Prefixed(), torch.randn(2, 3, 4))
    rows = Provenance().rows(record.outputs[0])
    assert rows is not None
    assert rows.index[0, :, 0].tolist() == [-1, 0, 4, 8]


def axis_of(model: nn.Module, batch: Any) -> int | None:
    record = run(model, batch)
    return ExampleAxes(record, Provenance()).axis(record.inputs[0])


class Positions(nn.Module):
    """Position embeddings along the first or the second axis of the tokens."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.embed, self.place, self.axis = nn.Embedding(30, 8), nn.Embedding(30, 8), axis

    def forward(self, tokens: Tensor) -> Tensor:
        place = self.place(torch.arange(tokens.shape[self.axis]))
        return self.embed(tokens) + (place if self.axis == 1 else place[:, None])


def test_the_example_axis_follows_from_position_embeddings() -> None:
    tokens = torch.zeros(4, 4, dtype=torch.long)
    assert axis_of(Positions(1), tokens) == 0
    assert axis_of(Positions(0), tokens) == 1


def test_the_example_axis_follows_from_shared_sizes() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x.sum() + y.sum()

    model = Two()
    assert axis_of(model, (torch.randn(3, 7, 2), torch.randn(3, 5, 2))) == 0
    assert axis_of(model, (torch.randn(7, 3, 2), torch.randn(5, 3, 2))) == 1
    assert axis_of(model, (torch.randn(3, 3, 2), torch.randn(3, 3, 2))) is None
