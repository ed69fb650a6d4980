"""Blocks never overlap and together hold every parameter."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from attnscope.anatomy.blocks import Anatomy, ParameterSlice, Role
from attnscope.anatomy.partition import Partition, overlaps, united
from attnscope.anatomy.trace import trace

SHAPE = (12, 3)


def filled(parts: list[ParameterSlice]) -> Tensor:
    cells = torch.zeros(SHAPE, dtype=torch.int)
    for part in parts:
        if part.dim is None:
            cells += 1
        for start, stop in part.ranges:
            cells.narrow(part.dim or 0, start, stop - start).add_(1)
    return cells


@st.composite
def row_parts(draw: st.DrawFn) -> ParameterSlice:
    start = draw(st.integers(0, 10))
    return ParameterSlice("w", SHAPE, 0, ((start, draw(st.integers(start + 1, 12))),))


@given(row_parts(), row_parts())
def test_overlap_is_sharing_an_element(one: ParameterSlice, other: ParameterSlice) -> None:
    assert overlaps(one, other) == bool((filled([one, other]) == 2).any())


@given(st.lists(row_parts(), min_size=1, max_size=4))
def test_what_is_left_is_the_complement(parts: list[ParameterSlice]) -> None:
    made = Partition({"w": nn.Parameter(torch.zeros(SHAPE))})
    for number, part in enumerate(parts):
        made.add(f"block {number}", Role.MLP, [part], None)
    held = [part for block in made.blocks.values() for part in block.slices]
    assert bool((filled([*held, *made.rest("w")]) == 1).all())


def test_the_union_of_heads_is_the_whole() -> None:
    heads = [ParameterSlice("w", SHAPE, 0, ((start, start + 4),)) for start in (0, 4, 8)]
    assert united(heads) == [ParameterSlice("w", SHAPE)]
    assert united(heads[:2]) == [ParameterSlice("w", SHAPE, 0, ((0, 8),))]


class Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(width), nn.MultiheadAttention(width, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 9), nn.GELU(), nn.Linear(9, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(x)


class Whole(nn.Module):
    """Every kind of block, a shared layer, a tied classifier, a part that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(11, 6), nn.Embedding(9, 6)
        self.encoder = nn.GRU(6, 6, batch_first=True)
        self.layer, self.last = Layer(6), Layer(6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight
        self.judge = nn.Linear(6, 3)
        self.idle = nn.Linear(6, 2)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        x = self.embed(tokens) + self.place(torch.arange(tokens.shape[1]))
        x, _ = self.encoder(x)
        x = self.last(self.layer(self.layer(x)))
        return self.head(x), self.judge(x[:, 0])


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    torch.manual_seed(0)
    return trace(Whole().eval(), torch.randint(0, 11, (2, 5)))


def test_every_parameter_once(anatomy: Anatomy) -> None:
    model = Whole()
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    assert sum(block.numel for block in anatomy.blocks) == sum(sizes.values())
    whole = [part.parameter for block in anatomy.blocks for part in block.slices if part.dim is None]
    assert len(whole) == len(set(whole))


def test_roles(anatomy: Anatomy) -> None:
    roles = {part.parameter: block.role for block in anatomy.blocks for part in block.slices}
    assert roles["embed.weight"] is Role.EMBEDDING
    assert roles["place.weight"] is Role.POSITIONS
    assert roles["encoder.weight_ih_l0"] is Role.ENCODER
    assert roles["layer.norm.weight"] is Role.NORM
    assert roles["layer.mlp.0.weight"] is Role.MLP
    assert roles["layer.mlp.2.bias"] is Role.MLP
    assert roles["judge.weight"] is Role.CLASSIFIER
    assert roles["last.attention.out_proj.weight"] is Role.OUTPUT


def test_a_layer_that_runs_twice_has_one_set_of_blocks(anatomy: Anatomy) -> None:
    assert [item.blocks["query"] for item in anatomy.attentions] == ["L0.Q", "L0.Q", "L2.Q"]
    assert anatomy.block("L0.Q").shared_by == (0, 1)
    assert anatomy.block("L2.Q").shared_by == ()


def test_unused_parameters_are_named(anatomy: Anatomy) -> None:
    assert set(anatomy.unused) == {"idle.weight", "idle.bias"}


def test_head_blocks_cut_the_projections(anatomy: Anatomy) -> None:
    heads = [block for block in anatomy.head_blocks() if block.role is Role.QUERY and block.layer == 0]
    assert [block.name for block in heads] == ["L0H0.Q", "L0H1.Q"]
    assert sum(block.numel for block in heads) == anatomy.block("L0.Q").numel


def test_it_goes_to_plain_data_and_back(anatomy: Anatomy) -> None:
    assert Anatomy.from_dict(anatomy.to_dict()) == anatomy
