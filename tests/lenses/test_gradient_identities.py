"""The gradient identities hold on any healthy attention, and name the residual that each fault leaves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from attnscope.lenses.key_bias_gradient import KeyBiasGradient
from attnscope.lenses.lora_gradient_identity import LoraGradientIdentity
from attnscope.lenses.query_key_gradient_identity import QueryKeyGradientIdentity
from attnscope.lenses.value_output_gradient_identity import ValueOutputGradientIdentity
from attnscope.probe import Probe
from lenses import hand_written as hand

Plan, probe_of = hand.Plan, hand.probe_of

LOSSES = {
    "cross-entropy": lambda output, batch: nn.functional.cross_entropy(output.flatten(0, 1), batch[1].flatten()),
    "squares": lambda output, batch: output.square().mean(),
    "last position": lambda output, batch: output[:, -1].logsumexp(-1).sum(),
    "cubes of one class": lambda output, batch: output[..., 3].pow(3).mean(),
}


@given(
    rotary=st.sampled_from(["", "half", "interleaved"]),
    bias=st.booleans(),
    causal=st.booleans(),
    fused=st.booleans(),
    n_key_heads=st.sampled_from([4, 2, 1]),
    scale=st.floats(0.1, 3.0),
    loss=st.sampled_from(sorted(LOSSES)),
    seed=st.integers(0, 1000),
)
@settings(max_examples=20, deadline=None)
def test_both_hold_for_any_loss_mask_kernel_and_batch(
    rotary, bias, causal, fused, n_key_heads, scale, loss, seed
) -> None:
    plan = Plan(d_model=16, rotary=rotary, bias=bias, causal=causal, fused=fused, n_key_heads=n_key_heads, scale=scale)
    probe = probe_of(plan, dtype=torch.float64, seed=seed, loss=LOSSES[loss])
    for lens in (QueryKeyGradientIdentity(), ValueOutputGradientIdentity()):
        reading = lens.measure(probe)
        assert reading.ok, reading.note
        assert np.nanmax(reading.values) < 1e-12
        assert reading.facts["violated"] == []


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-4), (torch.bfloat16, 5e-2)])
def test_rounding_stays_below_the_bound_of_its_precision(dtype: torch.dtype, bound: float) -> None:
    for seed in range(5):
        probe = probe_of(dtype=dtype, seed=seed)
        for lens in (QueryKeyGradientIdentity(), ValueOutputGradientIdentity()):
            reading = lens.measure(probe)
            assert reading.facts["tolerance"] == bound
            assert np.nanmax(reading.values) < bound


def halved_gradient(tensor: Tensor) -> Tensor:
    return 0.5 * tensor + 0.5 * tensor.detach()


def half_of_the_positions(tensor: Tensor) -> Tensor:
    return torch.cat([tensor[:, :, ::2].detach(), tensor[:, :, 1::2]], 2)[:, :, unshuffled(tensor.shape[2])]


def unshuffled(length: int) -> Tensor:
    order = torch.cat([torch.arange(0, length, 2), torch.arange(1, length, 2)])
    return order.argsort()


class WrongHead(torch.autograd.Function):
    """The same values; each head's gradient goes to its neighbour."""

    @staticmethod
    def forward(ctx, tensor: Tensor) -> Tensor:
        return tensor.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient.roll(1, 1)


def test_a_halved_key_gradient_leaves_two_thirds() -> None:
    reading = QueryKeyGradientIdentity().measure(probe_of(Plan(on_key=halved_gradient)))
    assert reading.values == pytest.approx(2 / 3, abs=1e-4)
    assert len(reading.facts["violated"]) == 4


def test_a_halved_gradient_of_one_head_names_that_head() -> None:
    def change(tensor: Tensor) -> Tensor:
        return torch.cat([tensor[:, :2], halved_gradient(tensor[:, 2:3]), tensor[:, 3:]], 1)

    reading = QueryKeyGradientIdentity().measure(probe_of(Plan(on_query=change)))
    assert reading.facts["violated"] == [[0, 2]]
    assert reading.at(layer=0, head=2) == pytest.approx(2 / 3, abs=1e-4)


def test_a_frozen_key_leaves_two() -> None:
    reading = QueryKeyGradientIdentity().measure(probe_of(Plan(on_key=Tensor.detach)))
    assert reading.values == pytest.approx(2.0)


def test_a_gradient_in_the_wrong_head_leaves_about_the_square_root_of_two() -> None:
    found = [
        QueryKeyGradientIdentity().measure(probe_of(Plan(d_model=64, on_key=WrongHead.apply), seed=seed)).values.mean()
        for seed in range(5)
    ]
    assert np.mean(found) == pytest.approx(1.42, abs=0.05)


def test_half_of_the_keys_detached_is_far_above_the_bound() -> None:
    found = [
        QueryKeyGradientIdentity().measure(probe_of(Plan(on_key=half_of_the_positions), seed=seed)).values
        for seed in range(5)
    ]
    assert np.min(found) > 0.1
    assert 0.3 < np.mean(found) < 1.0
    biases = KeyBiasGradient().measure(probe_of(Plan(on_key=half_of_the_positions)))
    assert biases.values.min() > 0.05


@pytest.mark.parametrize(
    ("change", "expected"), [(halved_gradient, 2 / 3), (Tensor.detach, 2.0)], ids=["halved", "frozen"]
)
def test_values_show_the_same_residuals(change, expected: float) -> None:
    reading = ValueOutputGradientIdentity().measure(probe_of(Plan(on_value=change)))
    assert reading.values == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("rotary", ["half", "interleaved"])
def test_a_halved_key_gradient_is_seen_through_rotary_positions(rotary: str) -> None:
    reading = QueryKeyGradientIdentity().measure(probe_of(Plan(d_model=16, rotary=rotary, on_key=halved_gradient)))
    assert reading.values == pytest.approx(2 / 3, abs=1e-3)


def test_a_hook_on_the_parameter_is_seen_too() -> None:
    probe = probe_of()
    probe.model.key.weight.register_hook(lambda gradient: gradient * 0.5)
    probe.model.key.bias.register_hook(lambda gradient: gradient * 0.5)
    assert QueryKeyGradientIdentity().measure(probe).values == pytest.approx(2 / 3, abs=1e-4)


def test_normalised_queries_are_said_to_be_outside_the_identity() -> None:
    reading = QueryKeyGradientIdentity().measure(probe_of(Plan(normalised=True)))
    assert reading.status == "not_applicable"
    assert "normalised" in reading.note


def test_gated_heads_are_said_to_be_outside_the_identity() -> None:
    plan = Plan(on_context=lambda context: context * torch.sigmoid(context.sum(-1, keepdim=True)))
    reading = ValueOutputGradientIdentity().measure(probe_of(plan))
    assert reading.status == "not_applicable"
    assert "before the output projection" in reading.note


def test_tied_queries_and_keys_are_not_caught_here_but_by_the_bias() -> None:
    probe = probe_of()
    probe.model.key.weight, probe.model.key.bias = probe.model.query.weight, probe.model.query.bias
    whole = probe_of(model=probe.model)
    reading = QueryKeyGradientIdentity().measure(whole)
    assert np.nanmax(reading.values, initial=0.0) < 1e-4


def test_a_dead_head_has_no_residual() -> None:
    probe = probe_of()
    with torch.no_grad():
        probe.model.value.weight.zero_()
        probe.model.value.bias.zero_()
    whole = probe_of(model=probe.model)
    assert QueryKeyGradientIdentity().measure(whole).values.tolist() == [[0.0] * 4]


def test_the_key_bias_has_no_gradient() -> None:
    for causal in (True, False):
        reading = KeyBiasGradient().measure(probe_of(Plan(causal=causal)))
        assert reading.ok
        assert reading.values.max() < 1e-5
    assert KeyBiasGradient().measure(probe_of(Plan(rotary="half", d_model=16))).status == "not_applicable"
    assert KeyBiasGradient().measure(probe_of(Plan(bias=False))).status == "not_applicable"


class Adapted(nn.Module):
    """A linear layer with a low-rank adapter, in a module of its own."""

    def __init__(self, base: nn.Linear, rank: int, scale: float, change=hand.same) -> None:
        super().__init__()
        self.base_layer, self.scale, self.change = base, scale, change
        self.lora_A = nn.Linear(base.in_features, rank, bias=False)
        self.lora_B = nn.Linear(rank, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.scale * self.lora_B(self.change(self.lora_A(x)))


def adapted(change=hand.same, scale: float = 2.0) -> Probe:
    probe = probe_of()
    model = probe.model
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.query = Adapted(model.query, 2, scale, change)
    return Probe(model=model, batches=probe.batches, anatomy=probe.anatomy)


def test_the_factors_of_an_adapter_belong_together() -> None:
    reading = LoraGradientIdentity().measure(adapted())
    assert reading.coords["block"] == ("query.base_layer.weight",)
    assert float(reading.values[0]) < 1e-5
    assert reading.facts["violated"] == []


def test_a_detached_factor_leaves_two() -> None:
    reading = LoraGradientIdentity().measure(adapted(Tensor.detach))
    assert float(reading.values[0]) == pytest.approx(2.0)
    assert reading.facts["violated"] == ["query.base_layer.weight"]


def test_a_fresh_adapter_is_healthy_and_no_adapter_is_said() -> None:
    probe = adapted()
    nn.init.zeros_(probe.model.query.lora_B.weight)
    reading = LoraGradientIdentity().measure(probe)
    assert reading.values.tolist() == [0.0]
    assert reading.facts["fresh"] == ["query.base_layer.weight"]
    assert LoraGradientIdentity().measure(probe_of()).status == "not_applicable"


def test_the_identity_of_queries_and_keys_sees_through_an_adapter() -> None:
    probe = adapted()
    model = probe.model

    def renamed(piece):
        if not piece.parameter.startswith("query."):
            return piece
        return type(piece)(piece.parameter.replace("query.", "query.base_layer."), piece.shape, piece.dim, piece.ranges)

    (attention,) = probe_of(Plan()).anatomy.attentions
    heads = {
        role: tuple(tuple(map(renamed, head)) for head in slices) for role, slices in attention.head_slices.items()
    }
    changed = type(attention)(**{**vars(attention), "head_slices": heads})
    whole = hand.HandProbe(model=model, batches=probe.batches, anatomy=type(probe.anatomy)("Adapted", (changed,)))
    whole.__dict__["observation"] = whole.observation_of(whole.batch)
    reading = QueryKeyGradientIdentity().measure(whole)
    assert reading.ok, reading.note
    assert reading.values.max() < 1e-4
