"""Mistakes of a video model with two streams: three steps later they are still there."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from attnscope import catalogue
from attnscope.case import Case
from attnscope.faults import FaultError
from attnscope.faults.permuted_values import by_columns
from attnscope.models.conv3d_attention import CrossAttention
from small_cases import gradients_of, output_of, planted, train, untrained

VIDEO = "conv3d_attention"
MOTION = ("motion.conv1", "motion.norm1", "motion.conv2", "motion.norm2")


def by_hand(case: Case, forward) -> Case:  # type: ignore[no-untyped-def]
    """The healthy model with the case's weights, and another forward of its attention, written out."""
    healthy = untrained(VIDEO)
    healthy.model.load_state_dict(case.model.state_dict())
    attention = healthy.model.get_submodule("attention")
    attention.forward = forward.__get__(attention)
    return healthy


def test_swapped_sources_are_those_of_the_other_stream() -> None:
    case, _, _ = planted("swapped_sources", VIDEO)
    written = by_hand(case, lambda self, asking, asked: CrossAttention.forward(self, asked, asking))
    assert torch.equal(output_of(case), output_of(written))


def test_one_source_leaves_an_encoder_without_use() -> None:
    case, healthy, fault = planted("one_source", VIDEO)
    gradients = gradients_of(case)
    dead = {name for name, each in gradients.items() if each is None or not each.any()}
    label = fault.label(healthy)
    assert {"motion.conv1.weight", "motion.norm2.bias"} <= dead
    assert "frames.conv1.weight" not in dead
    assert set(MOTION) <= set(label.places)
    assert not any(place.startswith("frames") for place in label.places)
    case.model.motion.conv1.weight.data.zero_()
    before = output_of(case)
    case.model.motion.conv1.weight.data.fill_(1.0)
    assert torch.equal(before, output_of(case))


def test_a_detached_source_cuts_the_encoder_and_changes_no_output() -> None:
    case, healthy, fault = planted("detached_source", VIDEO)
    same = untrained(VIDEO)
    same.model.load_state_dict(case.model.state_dict())
    assert torch.equal(output_of(case), output_of(same))
    for name, each in gradients_of(case).items():
        assert (each is None or not each.any()) == name.startswith("motion"), name
    assert fault.label(healthy).places[: len(MOTION)] == MOTION


def test_a_starved_source_has_small_gradients_that_are_not_zero() -> None:
    case, healthy, fault = planted("starved_source", VIDEO)
    healthy.model.load_state_dict(case.model.state_dict())
    starved, fed = gradients_of(case)["motion.conv2.weight"], gradients_of(healthy)["motion.conv2.weight"]
    assert starved is not None
    assert fed is not None
    assert 0 < float(starved.norm() / fed.norm()) < 0.1
    assert fault.label(healthy).places[: len(MOTION)] == MOTION


def test_permuted_values_are_read_by_columns() -> None:
    case, _, _ = planted("permuted_values", VIDEO)

    def forward(self, asking: Tensor, asked: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        query, key, value = self.split(self.query(asking)), self.split(self.key(asked)), self.split(self.value(asked))
        pattern = torch.softmax(query @ key.transpose(2, 3) / self.d_head**0.5, dim=-1)
        frames_last = value.unflatten(2, (5, 9)).transpose(2, 3).flatten(2, 3)  # (T, HW) read as (HW, T)
        return self.output((pattern @ frames_last).transpose(2, 3).reshape(asking.shape))

    assert torch.allclose(output_of(case), output_of(by_hand(case, forward)), atol=1e-5)


def test_by_columns_is_a_permutation_that_moves_something() -> None:
    for n_places in range(2, 60):
        order = by_columns(n_places)
        assert sorted(order.tolist()) == list(range(n_places))
        assert order.tolist() != list(range(n_places))


def test_heads_merged_wrongly_in_channels() -> None:
    case, _, _ = planted("heads_merged_wrongly", VIDEO)

    def forward(self, asking: Tensor, asked: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        query, key, value = self.split(self.query(asking)), self.split(self.key(asked)), self.split(self.value(asked))
        pattern = torch.softmax(query @ key.transpose(2, 3) / self.d_head**0.5, dim=-1)
        return self.output((pattern @ value).reshape(asking.shape))  # without transpose(2, 3)

    assert torch.allclose(output_of(case), output_of(by_hand(case, forward)), atol=1e-5)


@pytest.mark.parametrize("number", [0, 3])
def test_one_frame_is_all_that_a_kernel_sees(number: int) -> None:
    case, healthy, fault = planted("temporal_extent_lost", VIDEO, number=number)
    (place,) = fault.label(healthy).places
    assert place == ("frames.conv1", "frames.conv2", "motion.conv1", "motion.conv2")[number]
    weight = case.model.get_submodule(place).weight
    assert not weight[:, :, 0].any()
    assert not weight[:, :, 2].any()
    assert weight[:, :, 1].all()
    assert healthy.model.get_submodule(place).weight[:, :, 0].all()


@pytest.mark.parametrize("factor", [0.5, 2.0, 5.0])
def test_a_scaled_convolution_acts_as_a_larger_one(factor: float) -> None:
    strength = float(torch.tensor(factor).log() / torch.tensor(5.0).log())
    case, healthy, fault = planted("scaled_convolution", VIDEO, number=1, strength=strength)
    assert fault.label(healthy).places == ("frames.conv2",)
    healthy.model.load_state_dict(case.model.state_dict())
    healthy.model.frames.conv2.weight.data.mul_(factor)
    assert torch.allclose(output_of(case), output_of(healthy), atol=1e-4)


@pytest.mark.parametrize("number", [0, -1])
def test_frozen_statistics_never_move(number: int) -> None:
    case, healthy, fault = planted("norm_statistics_frozen", VIDEO, number=number)
    (place,) = fault.label(healthy).places
    norm = case.model.get_submodule(place)
    assert not norm.running_mean.any()
    assert bool((norm.running_var == 1).all())
    assert healthy.model.get_submodule(place).running_mean.any()


def test_frozen_statistics_in_a_model_of_another_kind() -> None:
    case = untrained("encoder")
    fault = catalogue.load("faults", "norm_statistics_frozen")()
    with pytest.raises(FaultError, match="0 batch normalisations"):
        fault.inject(case)
    case.model.norm = Transposed(case.model.norm.normalized_shape[0])
    case.optimizer = torch.optim.AdamW(case.model.parameters(), lr=1e-3)
    injected = fault.inject(case)
    train(injected)
    train(case)
    assert fault.label(case).places == ("norm.norm",)
    assert not injected.model.norm.norm.running_mean.any()
    assert case.model.norm.norm.running_mean.any()


class Transposed(nn.Module):
    """Batch normalisation of `[batch, position, width]`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.norm(hidden.transpose(1, 2)).transpose(1, 2)


def test_the_table_of_frames_is_shifted_along_time() -> None:
    case, healthy, _ = planted("positions_shifted", VIDEO, steps=0)
    assert torch.equal(case.model.times, healthy.model.times.roll(1, dims=1))
    assert not torch.equal(case.model.times, healthy.model.times)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_missing_positions_stay_small(strength: float) -> None:
    before = float(untrained(VIDEO).model.times.detach().norm())
    case, healthy, _ = planted("positions_missing", VIDEO, strength=strength)
    assert float(case.model.times.detach().norm()) <= (1 - strength) * before * 1.0001
    assert float(healthy.model.times.detach().norm()) > (1 - strength) * before


@pytest.mark.parametrize("name", ["zeroed_head", "duplicated_heads", "missing_scale", "residual_dropped"])
def test_what_other_models_have_too(name: str) -> None:
    case, _, _ = planted(name, VIDEO)
    same = untrained(VIDEO)
    same.model.load_state_dict(case.model.state_dict())
    if name == "missing_scale":
        for each in same.model.attention.query.parameters():
            each.data.mul_(same.model.attention.d_head**0.5)
    if name == "residual_dropped":
        model = same.model
        model.forward = lambda video: _without_residual(model, video)
    assert torch.allclose(output_of(case), output_of(same), atol=1e-5)
    attention = case.model.attention
    if name == "zeroed_head":
        assert not attention.value.weight[: attention.d_head].any()
    if name == "duplicated_heads":
        assert torch.equal(attention.query.weight[: attention.d_head], attention.query.weight[attention.d_head :])


def _without_residual(model: nn.Module, video: Tensor) -> Tensor:
    difference = torch.diff(video, dim=2, prepend=video[:, :, :1])
    attended = model.attention(model.frames(video) + model.times, model.motion(difference) + model.times)
    return model.classifier(model.norm(attended).mean(dim=(2, 3, 4)))


@pytest.mark.parametrize("name", ["swapped_sources", "one_source", "detached_source", "starved_source"])
def test_sources_of_a_self_attention_are_one(name: str) -> None:
    assert "one source" in catalogue.load("faults", name)().applies_to(untrained("encoder"))


def test_a_deep_copy_of_the_whole_case_is_apart_and_still_wrong() -> None:
    case, _, _ = planted("temporal_extent_lost", VIDEO)
    apart = copy.deepcopy(case)
    before = copy.deepcopy(case.model.state_dict())
    train(apart, 2)
    for name, each in case.model.state_dict().items():
        assert torch.equal(each, before[name]), name
    weight = apart.model.frames.conv1.weight
    assert not torch.equal(weight, case.model.frames.conv1.weight)
    assert not weight[:, :, 0].any()
