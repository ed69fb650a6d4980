"""What one layer of a small decoder does otherwise than its siblings is named, there, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attnscope.anatomy.trace import trace
from attnscope.case import default_forward
from attnscope.examine import diagnose
from attnscope.findings import Diagnosis
from attnscope.models.gpt import Block, Gpt

TOKENS = torch.randint(0, 11, (4, 9), generator=torch.Generator().manual_seed(3))


def decoder(n_layers: int = 3) -> Gpt:
    torch.manual_seed(0)
    return Gpt(n_tokens=11, n_positions=16, d_model=16, n_heads=4, n_layers=n_layers).eval()


def found(model: nn.Module, kind: str) -> list[str]:
    said: Diagnosis = diagnose(model, [{"input_ids": TOKENS}], loss=loss, select=[kind])
    return [finding.block_or_site for finding in said.findings]


def loss(output: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(output[:, :-1].flatten(0, 1), batch["input_ids"][:, 1:].flatten())


class TransposedLinear(nn.Linear):
    def forward(self, hidden: Tensor) -> Tensor:
        return nn.functional.linear(hidden, self.weight.T, self.bias)


def again_transposed(module: nn.Linear, args: tuple[Any, ...], output: Tensor) -> Tensor:
    return nn.functional.linear(args[0], module.weight.T, module.bias)


def replaced(linear: nn.Linear) -> TransposedLinear:
    other = TransposedLinear(linear.in_features, linear.out_features)
    other.load_state_dict(linear.state_dict())
    return other


# --- transposed_projection -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["query", "key", "value", "output"])
@pytest.mark.parametrize("layer", [0, 2])
def test_a_square_weight_that_one_layer_uses_transposed_is_named(role: str, layer: int) -> None:
    model = decoder()
    attention = model.blocks[layer].attention
    setattr(attention, role, replaced(getattr(attention, role)))
    assert found(model, "transposed_projection") == [f"L{layer}.{role[0].upper()}"]


def test_a_stack_that_stores_all_its_weights_transposed_is_healthy() -> None:
    model = decoder()
    assert found(model, "transposed_projection") == []
    for block in model.blocks:
        block.attention.output = replaced(block.attention.output)
    assert found(model, "transposed_projection") == []


def test_two_layers_do_not_tell_which_of_them_is_transposed() -> None:
    model = decoder(2)
    model.blocks[1].attention.output = replaced(model.blocks[1].attention.output)
    assert found(model, "transposed_projection") == []


def test_a_product_whose_result_nobody_reads_is_not_the_output_projection() -> None:
    model = decoder()
    model.blocks[1].attention.output.register_forward_hook(again_transposed)
    anatomy = trace(model, {"input_ids": TOKENS}, default_forward)
    assert [attention.residual for attention in anatomy.attentions] == [True, True, True]
    said = diagnose(model, [{"input_ids": TOKENS}], loss=loss, select=["CRV602", "GRD502", "PRJ320"])
    assert [finding.block_or_site for finding in said.findings] == ["L1.O"]


# --- residual_scaled, not_deterministic at a residual ---------------------------------------------------------------


class OtherResidual(Block):
    """A block that adds its residual as it is told."""

    gain: Any
    noise: float

    def forward(self, hidden: Tensor, past: Any = None) -> tuple[Tensor, Any]:
        attended, cache = self.attention(self.norm_attention(hidden), past)
        hidden = attended + self.gain * hidden + self.noise * torch.randn_like(hidden)
        inner = nn.functional.gelu(self.mlp_in(self.norm_mlp(hidden)))
        return hidden + self.mlp_out(inner), cache


def told(layers: dict[int, dict[str, Any]], n_layers: int = 3) -> Gpt:
    model = decoder(n_layers)
    for layer, facts in layers.items():
        model.blocks[layer].__class__ = OtherResidual
        for name, value in {"gain": 1.0, "noise": 0.0, **facts}.items():
            setattr(model.blocks[layer], name, value)
    return model


@pytest.mark.parametrize("gain", [0.5, 2.0, -1.0])
@pytest.mark.parametrize("layer", [0, 2])
def test_a_residual_with_a_factor_of_its_own_is_named(gain: float, layer: int) -> None:
    model = told({layer: {"gain": gain}})
    assert found(model, "residual_scaled") == [f"L{layer}.residual"]
    assert found(model, "residual_dropped") == []


def test_the_one_scaled_residual_among_others_that_share_a_factor_is_named() -> None:
    assert found(told({0: {"gain": 0.7}, 1: {"gain": 0.7}, 2: {"gain": 1.4}}), "residual_scaled") == ["L2.residual"]


@pytest.mark.parametrize(
    "layers",
    [
        {0: {"gain": 2.0}, 1: {"gain": 2.0}, 2: {"gain": 2.0}},
        {0: {"gain": 1.0}, 1: {"gain": 1.0}, 2: {"gain": 1.0}},
        {0: {"gain": 0.9}, 1: {"gain": 0.8}, 2: {"gain": 0.7}},
        {1: {"gain": nn.Parameter(torch.tensor(0.6))}},
        {1: {"gain": nn.Parameter(torch.full((16,), 0.6))}},
    ],
    ids=["all alike", "plain", "by depth", "learned", "learned per channel"],
)
def test_factors_by_design_are_silent(layers: dict[int, dict[str, Any]]) -> None:
    assert found(told(layers), "residual_scaled") == []


def test_a_residual_times_zero_is_dropped() -> None:
    model = told({1: {"gain": 0.0}})
    assert found(model, "residual_scaled") == []
    assert found(model, "residual_dropped") == ["L1.residual"]


@pytest.mark.parametrize("training", [False, True])
def test_noise_at_a_residual_is_named_there_and_is_no_dropout(training: bool) -> None:
    torch.manual_seed(0)
    model = Gpt(n_tokens=11, n_positions=16, d_model=16, n_heads=4, n_layers=3, dropout=0.1).train(training)
    model.blocks[1].__class__ = OtherResidual
    model.blocks[1].gain, model.blocks[1].noise = 1.0, 0.1
    said = diagnose(model, [{"input_ids": TOKENS}], loss=loss, select=["not_deterministic", "dropout_in_eval"])
    assert [(finding.kind, finding.block_or_site) for finding in said.findings] == [
        ("not_deterministic", "L1.residual")
    ]


# --- the layer whose cache is wrong ---------------------------------------------------------------------------------


class LateValues(Gpt):
    """A decoder whose cache holds old values in one layer, beside the right keys."""

    wrong: int

    def forward(self, input_ids: Tensor, past_key_values: Any = None, use_cache: bool = False) -> Any:
        output = super().forward(input_ids, past_key_values, use_cache)
        if past_key_values is None or not use_cache:
            return output
        logits, caches = output
        keys, values = caches[self.wrong]
        caches[self.wrong] = (keys, torch.cat((values[:, :, :-1], values[:, :, -2:-1]), 2))
        return logits, caches


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_wrong_cache_is_placed_at_the_layer_where_the_decode_departs(layer: int) -> None:
    model = decoder()
    assert found(model, "wrong_cache_position") == []
    model.__class__ = LateValues
    model.wrong = layer
    assert found(model, "wrong_cache_position") == [f"L{layer}.cache"]


def test_positions_that_do_not_go_on_are_wrong_from_the_first_layer_on() -> None:
    class FromZero(Gpt):
        def forward(self, input_ids: Tensor, past_key_values: Any = None, use_cache: bool = False) -> Any:
            hidden, caches = self.tokens(input_ids) + self.positions.weight[: input_ids.shape[1]], []
            for number, block in enumerate(self.blocks):
                hidden, cache = block(hidden, past_key_values[number] if past_key_values else None)
                caches.append(cache)
            logits = self.head(self.norm(hidden))
            return (logits, caches) if use_cache else logits

    model = decoder()
    model.__class__ = FromZero
    assert found(model, "wrong_cache_position") == ["L0.cache"]


# --- pattern_rounded ------------------------------------------------------------------------------------------------


class Rounding(nn.Module):
    """Stands where the dropout of a pattern stands, and rounds the weights there and back."""

    def __init__(self, precision: torch.dtype) -> None:
        super().__init__()
        self.precision = precision

    def forward(self, pattern: Tensor) -> Tensor:
        return pattern + (pattern.detach().to(self.precision).to(pattern.dtype) - pattern.detach())


def rounded(*precisions: torch.dtype | None) -> Gpt:
    model = decoder(len(precisions))
    for block, precision in zip(model.blocks, precisions, strict=True):
        if precision is not None:
            block.attention.dropout = Rounding(precision)
    return model


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
@pytest.mark.parametrize("layer", [0, 2])
def test_one_layer_with_coarse_weights_is_named(precision: torch.dtype, layer: int) -> None:
    model = rounded(*(precision if place == layer else None for place in range(3)))
    assert found(model, "pattern_rounded") == [f"L{layer}.softmax"]


def test_the_same_precision_everywhere_is_a_choice() -> None:
    assert found(rounded(None, None, None), "pattern_rounded") == []
    assert found(rounded(*[torch.bfloat16] * 3), "pattern_rounded") == []
    assert found(decoder().bfloat16(), "pattern_rounded") == []
    assert found(rounded(torch.bfloat16), "pattern_rounded") == []


def test_uniform_weights_say_nothing_of_precision() -> None:
    model = decoder()
    with torch.no_grad():
        model.blocks[1].attention.query.weight.zero_()
        model.blocks[1].attention.query.bias.zero_()
    assert found(model, "pattern_rounded") == []


# --- heads_blended --------------------------------------------------------------------------------------------------


class Blending(nn.Module):
    """Stands where the dropout of a pattern stands: each head's weights become in part those of another."""

    def __init__(self, share: float, to: str) -> None:
        super().__init__()
        self.share, self.to = share, to

    def forward(self, pattern: Tensor) -> Tensor:
        other = pattern.roll(1, 1) if self.to == "next" else pattern[:, :1].expand_as(pattern)
        return pattern.lerp(other, self.share)


def blended(*shares: float, to: str = "first") -> Gpt:
    model = decoder(len(shares))
    for block, share in zip(model.blocks, shares, strict=True):
        block.attention.dropout = Blending(share, to) if share else nn.Identity()
        with torch.no_grad():  # heads that differ
            block.attention.query.weight.mul_(12)
    return model


@pytest.mark.parametrize("share", [0.3, 1.0])
@pytest.mark.parametrize("to", ["first", "next"])
def test_heads_that_use_one_another_are_named(share: float, to: str) -> None:
    assert found(blended(0.0, share, 0.0, to=to), "heads_blended") == ["L1.heads"]


def test_heads_that_are_mixed_in_every_layer_talk() -> None:
    assert found(blended(0.3, 0.3, 0.3), "heads_blended") == []
    assert found(blended(0.0, 0.0, 0.0), "heads_blended") == []
    assert found(blended(0.3), "heads_blended") == []


def test_what_is_no_mixture_of_heads_is_not_called_one() -> None:
    model = blended(0.0, 0.0, 0.0)
    model.blocks[1].attention.dropout = Rounding(torch.bfloat16)
    assert found(model, "heads_blended") == []
    assert found(decoder(), "heads_blended") == []
